"""Deterministic sampling (DDIM; paper Eq. 1): the start alone decides the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ims3core.samplers import Steps as Section  # noqa: F401
from ims3core.samplers import network_calls as calls  # noqa: F401

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams
    from ims3core.diffusion.schedule import Schedule

TAKES = ("nothing",)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: None,
    *, steps: int, guidance: float, guided_channels: int,
) -> Tensor:  # fmt: skip
    """From noise, ``steps`` timesteps of the trained process."""
    from ims3core.diffusion.sampling import denoise

    return denoise(
        denoiser, label, streams, step=ddim_step, steps=steps, guidance=guidance, guided_channels=guided_channels
    )


def ddim_step(
    schedule: Schedule, z_t: Tensor, eps_hat: Tensor, v: Tensor, t: Tensor, noise: Callable[[], Tensor]
) -> Tensor:
    """One deterministic step (Eq. 1); ``v`` and ``noise`` are not used."""
    from ims3core.diffusion.schedule import at, predict_z0

    z0 = predict_z0(schedule, z_t, eps_hat, t)
    previous = schedule.alpha_bar_previous
    return at(previous.sqrt(), t, z_t) * z0 + at((1 - previous).sqrt(), t, z_t) * eps_hat
