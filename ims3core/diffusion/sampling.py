"""What samplers share: classifier-free guidance, one random stream per image, the loop over respaced timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ims3core.diffusion.schedule import Schedule, respace
from ims3core.shell.errors import NumericsError

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


@dataclass(frozen=True)
class Denoiser:
    """A generator ready to be asked.

    Attributes:
        network: ``(z_t, t, label) -> (B, 2 channels, side, side)``, called with latents in ``dtype`` on ``device``.
        schedule: the process it was trained on.
        null_label: the label of the unconditional model.
    """

    network: Network
    schedule: Schedule
    null_label: int
    device: torch.device
    dtype: torch.dtype

    def __call__(
        self, z_t: torch.Tensor, t: torch.Tensor, label: torch.Tensor, *, guidance: float, guided_channels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``eps_hat`` and ``v`` as from :func:`guided`; ``t`` counts in the trained process."""
        return guided(
            self.network, z_t.to(self.dtype), t, label,
            null_label=self.null_label, guidance=guidance, guided_channels=guided_channels,
        )  # fmt: skip


Step = Callable[
    [Schedule, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor
]
"""``(schedule, z_t, eps_hat, v, index, fresh noise) -> z_{t-1}`` on the respaced schedule; ``index`` is (B,)."""


def denoise(
    denoiser: Denoiser,
    label: torch.Tensor,
    streams: NoiseStreams,
    *,
    step: Step,
    steps: int,
    guidance: float,
    guided_channels: int,
    start: torch.Tensor | None = None,
    first: int | None = None,
) -> torch.Tensor:
    """Latents (B, channels, side, side) from noise to clean along ``steps`` respaced timesteps.

    Args:
        label: (B,) generator labels.
        streams: one noise stream per image; the first draw is the start if none is given, further ones are the
            fresh noise that ``step`` asks for.
        start: (B, channels, side, side) latents to go on from at index ``first`` of the respaced timesteps.

    Raises:
        NumericsError: if a latent is not finite.
    """
    device, schedule = denoiser.device, respace(denoiser.schedule, steps)
    label, timesteps = label.to(device), schedule.timesteps.to(device)
    z_t = (streams() if start is None else start).to(device)
    for index in reversed(range(len(schedule) if first is None else first + 1)):
        here = torch.full((len(label),), index, device=device)
        eps_hat, v = denoiser(z_t, timesteps[here], label, guidance=guidance, guided_channels=guided_channels)
        z_t = step(schedule, z_t, eps_hat, v, here, lambda: streams().to(device))
    if not torch.isfinite(z_t).all():
        raise NumericsError("sampling: a latent is not finite; guidance too large or a broken generator")
    return z_t
