"""The sampler axis: respaced DDPM and DDIM with classifier-free guidance, one random stream per image."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ims3core.diffusion.schedule import Schedule, at, model_log_variance, posterior_mean, predict_z0
from ims3core.errors import NumericsError, ParameterError

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class NoiseStreams:
    """Standard normal noise for a batch, each image from its own generator.

    The noise of an image depends on its seed and on how often it was asked for, never on its
    batch companions, so any batch size or sharding sees the same bits.
    """

    def __init__(self, generators: list[torch.Generator], shape: tuple[int, ...]) -> None:
        self.generators = generators
        self.shape = shape

    def __call__(self) -> torch.Tensor:
        """Float32 noise (B, *shape) on the CPU."""
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])


def guided(
    network: Network,
    z_t: torch.Tensor,
    t: torch.Tensor,
    label: torch.Tensor,
    *,
    null_label: int,
    guidance: float,
    guided_channels: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and variance prediction under classifier-free guidance (DiT, sampling code).

    eps = eps_null + guidance (eps_label - eps_null) on the first ``guided_channels`` channels; the
    other noise channels and the variance are the conditional ones. DiT guides 3 of its 4 channels.

    Returns:
        ``eps_hat`` and ``v``, each float32 (B, channels, side, side).
    """
    channels = z_t.shape[1]
    if guidance == 1:
        return network(z_t, t, label).float().split(channels, 1)
    both = network(torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([label, torch.full_like(label, null_label)]))
    conditional, null = both.float().chunk(2)
    eps_hat, v = conditional.split(channels, 1)
    eps_null = null[:, :guided_channels]
    steered = eps_null + guidance * (eps_hat[:, :guided_channels] - eps_null)
    return torch.cat([steered, eps_hat[:, guided_channels:]], 1), v


def ddpm_step(
    schedule: Schedule, z_t: torch.Tensor, eps_hat: torch.Tensor, v: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """One ancestral step with learned variance; no noise at the last step, x0 not clipped (DDPM, improved DDPM)."""
    mean = posterior_mean(schedule, predict_z0(schedule, z_t, eps_hat, t), z_t, t)
    spread = (0.5 * model_log_variance(schedule, v, t)).exp()
    return mean + (t > 0).view(-1, 1, 1, 1) * spread * noise


def ddim_step(
    schedule: Schedule, z_t: torch.Tensor, eps_hat: torch.Tensor, v: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """One deterministic DDIM step (Eq. 1); ``v`` and ``noise`` are not used."""
    z0 = predict_z0(schedule, z_t, eps_hat, t)
    previous = schedule.alpha_bar_previous
    return at(previous.sqrt(), t, z_t) * z0 + at((1 - previous).sqrt(), t, z_t) * eps_hat


SAMPLERS: dict[str, tuple[Callable[..., torch.Tensor], bool]] = {"ddpm": (ddpm_step, True), "ddim": (ddim_step, False)}
"""Name -> (step function, whether it consumes fresh noise at every step)."""


def sample(
    network: Network,
    schedule: Schedule,
    label: torch.Tensor,
    streams: NoiseStreams,
    *,
    sampler: str,
    null_label: int,
    guidance: float,
    guided_channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Latents (B, channels, side, side) drawn from noise to clean along the respaced ``schedule``.

    Args:
        network: ``(z_t, t, label) -> (B, 2 channels, side, side)``, called with latents in ``dtype``.
        label: (B,) generator labels.
        streams: one noise stream per image; the first draw is the start, one more per DDPM step.

    Raises:
        ParameterError: for an unknown sampler.
        NumericsError: if a latent is not finite.
    """
    if sampler not in SAMPLERS:
        raise ParameterError(f"pools sampler: found {sampler!r}; known: {', '.join(SAMPLERS)}")
    step_function, noisy = SAMPLERS[sampler]
    label = label.to(device)
    z_t = streams().to(device)
    for step in reversed(range(len(schedule))):
        index = torch.full((len(label),), step, device=device)
        t = schedule.timesteps.to(device)[index]
        eps_hat, v = guided(
            network, z_t.to(dtype), t, label,
            null_label=null_label, guidance=guidance, guided_channels=guided_channels,
        )  # fmt: skip
        noise = streams().to(device) if noisy and step > 0 else torch.zeros_like(z_t)
        z_t = step_function(schedule, z_t, eps_hat, v, index, noise)
    if not torch.isfinite(z_t).all():
        raise NumericsError("sampling: a latent is not finite; candidates.guidance too large or a broken generator")
    return z_t
