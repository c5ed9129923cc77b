"""Deterministic sampling (DDIM; paper Eq. 1): the start alone decides the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.samplers import Steps as Section  # noqa: F401
from ims3core.samplers import network_calls as calls  # noqa: F401

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams

TAKES = ("nothing",)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: None,
    *, steps: int, guidance: float, guided_channels: int,
) -> Tensor:  # fmt: skip
    """From noise, ``steps`` timesteps of the trained process."""
    from ims3core.diffusion.sampling import ddim_step, denoise
    from ims3core.diffusion.schedule import respace

    return denoise(
        denoiser, label, streams, step=ddim_step, schedule=respace(denoiser.schedule, steps), guidance=guidance,
        guided_channels=guided_channels,
    )  # fmt: skip
