"""DDIM inversion: from a clean latent back towards noise with the model's own predictions (Eq. 3)."""

from __future__ import annotations

from typing import Any

import torch

from ims3core.diffusion.sampling import Network
from ims3core.diffusion.schedule import Schedule, at, predict_z0


def inversion_step(
    z: torch.Tensor, eps_hat: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_next: torch.Tensor
) -> torch.Tensor:
    """One Euler step of Eq. 3; both ``alpha_bar`` are (B, 1, 1, 1), the cleaner one may be 1."""
    ratio = alpha_bar_next / alpha_bar
    return ratio.sqrt() * z + ((1 - alpha_bar_next).sqrt() - (ratio * (1 - alpha_bar)).sqrt()) * eps_hat


def invert(
    network: Network, schedule: Schedule, z0: torch.Tensor, t: torch.Tensor, label: torch.Tensor, **how: Any
) -> torch.Tensor:
    """The inverted latent z_inv at timestep ``t``, by Euler steps from the clean latent; as :func:`walk` says."""
    z, tau, alpha_bar = walk(network, schedule, z0, t, label, **how)
    eps_hat = network(z, tau, label).float()[:, : z0.shape[1]]
    return inversion_step(z, eps_hat, alpha_bar, at(schedule.alpha_bar, t, z))


def walk(
    network: Network,
    schedule: Schedule,
    z0: torch.Tensor,
    t: torch.Tensor,
    label: torch.Tensor,
    *,
    steps: int,
    through_all_steps: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the last of ``steps`` Euler steps to ``t`` begins (Eq. 3 chained): latent, timestep (B,) and alpha_bar.

    The grid is tau_0 = clean (alpha_bar 1, the network sees t = 0), ..., tau_n = t, evenly spaced. The
    paper leaves the grid open. Conditional label, no guidance, no label dropout.

    Args:
        z0: (B, C, H, W) clean latents.
        t: (B,) target timesteps.
        steps: number n of network calls of the whole inversion, of which n - 1 are made here.
        through_all_steps: if false, the calls here receive no gradients (n times cheaper).
    """
    z, tau = z0, torch.zeros_like(t)
    alpha_bar = torch.ones(len(z0), 1, 1, 1, dtype=z0.dtype, device=z0.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and through_all_steps):
        for k in range(1, steps):
            eps_hat = network(z, tau, label).float()[:, : z0.shape[1]]
            tau = (t * k).div(steps, rounding_mode="floor")
            alpha_bar_next = at(schedule.alpha_bar, tau, z0)
            z = inversion_step(z, eps_hat, alpha_bar, alpha_bar_next)
            alpha_bar = alpha_bar_next
    return z, tau, alpha_bar


@torch.no_grad()
def official_inversion(
    network: Network, schedule: Schedule, z0: torch.Tensor, t: torch.Tensor, label: torch.Tensor, *, clip_x0: bool
) -> torch.Tensor:
    """What the public code compares with: one reverse DDIM step taken from the *clean* latent as if it were z_t.

    Differs: from Eq. 3 as listed in D1, D2 and D5: no trajectory, the result stands at t + 1 (alpha_bar
    of the step after the last is 0), and the predicted clean latent is clipped to [-1, 1] if ``clip_x0``.
    """
    eps_hat = network(z0, t, label).float()[:, : z0.shape[1]]
    z0_hat = predict_z0(schedule, z0, eps_hat, t)
    if clip_x0:
        z0_hat = z0_hat.clamp(-1, 1)
    alpha_bar = at(schedule.alpha_bar, t, z0)
    eps_hat = (z0 - alpha_bar.sqrt() * z0_hat) / (1 - alpha_bar).sqrt()
    following = torch.cat([schedule.alpha_bar[1:], torch.zeros(1, dtype=schedule.alpha_bar.dtype)])
    alpha_bar_next = at(following, t, z0)
    return alpha_bar_next.sqrt() * z0_hat + (1 - alpha_bar_next).sqrt() * eps_hat
