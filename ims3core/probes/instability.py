"""The geometric mean instability coefficient of the map from noise to data, along inversions (paper Eq. 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params import schema

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Network
    from ims3core.diffusion.schedule import Schedule


class Section(schema.Section):
    images: schema.Count
    steps: schema.Count
    level: schema.Fraction


def measure(
    network: Network, schedule: Schedule, latents: Tensor, label: Tensor, generator: torch.Generator,
    *, images: int, steps: int, level: float,
) -> dict[str, list[float]]:  # fmt: skip
    """Per image: the logarithm of the coefficient, the log-determinant it comes from, and the dimension.

    The coefficient of the map F from noise to data is the geometric mean of its singular values, |det J_F|^(1/n). Along
    an inversion z_0 -> ... -> z_T, J_F is the inverse of the product of the steps' Jacobians, so that its logarithm is
    minus the sum of their log-determinants over n. Where data are noise themselves it is 0; where density is higher
    than the noise's it is negative, since |det J_F| = p_noise(z_T) / p_generated(z_0).

    Args:
        images: how many latents, drawn without repetition.
        steps: Euler steps of the inversion, evenly spaced in time (Eq. 3).
        level: share of the process that is inverted.
    """
    import torch

    chosen = torch.randperm(len(latents), generator=generator)[:images]
    found: dict[str, list[float]] = {"log_coefficient": [], "log_determinant": [], "dimension": []}
    for z0, own in zip(latents[chosen], label[chosen], strict=True):
        total = log_determinant(network, schedule, z0[None], own[None], steps=steps, level=level)
        found["log_coefficient"].append(-total / z0.numel())
        found["log_determinant"].append(-total)
        found["dimension"].append(float(z0.numel()))
    return found


def log_determinant(
    network: Network, schedule: Schedule, z0: Tensor, label: Tensor, *, steps: int, level: float
) -> float:
    """The log-determinant of the inversion of one latent (1, C, H, W).

    Exact: every step's Jacobian is made column by column and its determinant taken, O(steps n) network calls.
    """
    import torch

    from ims3core.diffusion.inversion import inversion_step
    from ims3core.diffusion.schedule import at

    last = round(level * (len(schedule.alpha_bar) - 1))
    z, tau, alpha_bar, total = z0.double(), 0, torch.ones(1, 1, 1, 1, dtype=torch.float64, device=z0.device), 0.0
    for k in range(1, steps + 1):
        here = torch.full((1,), tau, device=z0.device)
        tau = last * k // steps
        alpha_bar_next = at(schedule.alpha_bar, torch.full((1,), tau, device=z0.device), z)

        def step(flat: Tensor, t: Tensor = here, before: Tensor = alpha_bar, after: Tensor = alpha_bar_next) -> Tensor:
            image = flat.reshape(z0.shape)
            eps_hat = network(image.to(z0), t, label).double()[:, : z0.shape[1]]
            return inversion_step(image, eps_hat, before, after).flatten()

        jacobian = torch.autograd.functional.jacobian(step, z.flatten(), vectorize=True)
        total += torch.linalg.slogdet(jacobian.double()).logabsdet.item()
        z, alpha_bar = step(z.flatten()).reshape(z0.shape).detach(), alpha_bar_next
    return total
