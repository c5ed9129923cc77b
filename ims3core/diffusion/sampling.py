"""What samplers share: classifier-free guidance, one random stream per image, the loop over respaced timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ims3core.diffusion.schedule import Schedule, at, model_log_variance, posterior_mean, predict_z0
from ims3core.errors import NumericsError

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def in_equal_calls(network: Network, size: int) -> Network:
    """``network`` asked for exactly ``size`` latents at a time, the last ones repeated: one compiled code for all."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        outputs = []
        for part in zip(*(tensor.split(size) for tensor in inputs), strict=True):
            filled = [torch.cat([one, one[-1:].expand(size - len(one), *one.shape[1:])]) for one in part]
            outputs.append(network(*filled)[: len(part[0])])
        return torch.cat(outputs)

    return call


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


class Prediction(NamedTuple):
    """What a generator says of a noised latent, each float32 (B, channels, side, side).

    ``eps`` is the noise under guidance, ``v`` the variance fraction, ``eps_label`` the noise without guidance.
    """

    eps: torch.Tensor
    v: torch.Tensor
    eps_label: torch.Tensor


def guided(
    network: Network,
    z_t: torch.Tensor,
    t: torch.Tensor,
    label: torch.Tensor,
    *,
    null_label: int,
    guidance: float,
    guided_channels: int,
) -> Prediction:
    """Noise and variance prediction under classifier-free guidance (DiT, sampling code).

    eps = eps_null + guidance (eps_label - eps_null) on the first ``guided_channels`` channels; the
    other noise channels and the variance are the conditional ones. DiT guides 3 of its 4 channels.
    """
    channels = z_t.shape[1]
    if guidance == 1:
        eps_hat, v = network(z_t, t, label).float().split(channels, 1)
        return Prediction(eps_hat, v, eps_hat)
    # Two calls of one size: steps without guidance then need no other compiled code.
    conditional, null = (network(z_t, t, asked).float() for asked in (label, torch.full_like(label, null_label)))
    eps_hat, v = conditional.split(channels, 1)
    eps_null = null[:, :guided_channels]
    steered = eps_null + guidance * (eps_hat[:, :guided_channels] - eps_null)
    return Prediction(torch.cat([steered, eps_hat[:, guided_channels:]], 1), v, eps_hat)


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
    ) -> Prediction:
        """As from :func:`guided`; ``t`` counts in the trained process."""
        return guided(
            self.network, z_t.to(self.dtype), t, label,
            null_label=self.null_label, guidance=guidance, guided_channels=guided_channels,
        )  # fmt: skip


Step = Callable[[Schedule, torch.Tensor, Prediction, torch.Tensor, Callable[[], torch.Tensor]], torch.Tensor]
"""``(schedule, z_t, prediction, index, fresh noise) -> z_{t-1}`` on the respaced schedule; ``index`` is (B,)."""


def denoise(
    denoiser: Denoiser,
    labels: torch.Tensor,
    noise: NoiseStreams,
    *,
    step: Step,
    schedule: Schedule,
    guidance: float | Callable[[int], float],
    guided_channels: int,
    start: tuple[torch.Tensor, int] | None = None,
) -> torch.Tensor:
    """Latents (B, channels, side, side) from noise to clean along the timesteps of a respaced ``schedule``.

    Args:
        labels: (B,) generator labels.
        noise: one stream per image; the first draw is the start if none is passed, further ones are the fresh noise
            that ``step`` asks for.
        guidance: the scale, or what it is at a timestep of the trained process.
        start: latents (B, channels, side, side) to go on from, and the index of the respaced timesteps they stand at.

    Raises:
        NumericsError: if a latent is not finite.
    """
    device = denoiser.device
    labels, timesteps = labels.to(device), schedule.timesteps.to(device)
    z_t, first = (noise(), len(schedule) - 1) if start is None else start
    z_t = z_t.to(device)
    for index in reversed(range(first + 1)):
        t = torch.full((len(labels),), index, device=device)
        scale = guidance(int(schedule.timesteps[index])) if callable(guidance) else guidance
        prediction = denoiser(z_t, timesteps[t], labels, guidance=scale, guided_channels=guided_channels)
        z_t = step(schedule, z_t, prediction, t, lambda: noise().to(device))
    if not torch.isfinite(z_t).all():
        raise NumericsError("sampling: a latent is not finite; guidance too large or a broken generator")
    return z_t


def ddpm_step(
    schedule: Schedule, z_t: torch.Tensor, prediction: Prediction, t: torch.Tensor, noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """One ancestral step with learned variance; no noise at the last step, x0 not clipped."""
    mean = posterior_mean(schedule, predict_z0(schedule, z_t, prediction.eps, t), z_t, t)
    if t[0] == 0:  # a batch is at one timestep
        return mean
    return mean + (0.5 * model_log_variance(schedule, prediction.v, t)).exp() * noise()


def ddim_step(
    schedule: Schedule, z_t: torch.Tensor, prediction: Prediction, t: torch.Tensor, noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """One deterministic step (Eq. 1); ``noise`` is not used."""
    z0 = predict_z0(schedule, z_t, prediction.eps, t)
    previous = schedule.alpha_bar_previous
    return at(previous.sqrt(), t, z_t) * z0 + at((1 - previous).sqrt(), t, z_t) * prediction.eps


def grid_index(share: float, *, steps: int) -> int:
    """The respaced index at which ``share`` of the ``steps`` is left to walk: at least 0, at most the last."""
    return min(steps - 1, max(0, round(share * steps) - 1))
