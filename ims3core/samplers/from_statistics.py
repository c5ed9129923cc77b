"""Deterministic sampling from starts at some noise level, drawn from statistics of inverted real latents (D3HR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params import schema
from ims3core.samplers import Steps, network_calls

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams

TAKES = ("starts",)


class Section(Steps):
    level: schema.OpenFraction


def calls(*, steps: int, level: float, guidance: float, guided_channels: int) -> int:
    """Only the steps below the level."""
    from ims3core.diffusion.sampling import grid_index

    return network_calls(steps=grid_index(level, steps=steps) + 1, guidance=guidance)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: Tensor,
    *, steps: int, guidance: float, guided_channels: int, level: float,
) -> Tensor:  # fmt: skip
    """DDIM from the states ``given``, which stand at ``level`` of the respaced trajectory; nothing is random."""
    from ims3core.diffusion.sampling import ddim_step, denoise, grid_index
    from ims3core.diffusion.schedule import respace

    return denoise(
        denoiser, label, streams, step=ddim_step, schedule=respace(denoiser.schedule, steps), guidance=guidance,
        guided_channels=guided_channels, start=given, first=grid_index(level, steps=steps),
    )  # fmt: skip
