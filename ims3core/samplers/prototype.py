"""Image to image from prototypes: noised to a part of the trajectory, then denoised (D4M)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params import schema
from ims3core.samplers import Steps, network_calls

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams

TAKES = ("targets",)


class Section(Steps):
    strength: schema.OpenFraction


def calls(*, steps: int, strength: float, guidance: float, guided_channels: int) -> int:
    """Only the steps that are walked."""
    from ims3core.diffusion.sampling import grid_index

    return network_calls(steps=grid_index(strength, steps=steps) + 1, guidance=guidance)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: Tensor,
    *, steps: int, guidance: float, guided_channels: int, strength: float,
) -> Tensor:  # fmt: skip
    """The prototypes ``given``, noised to ``strength`` of the trajectory and denoised from there (ancestral steps)."""
    import torch

    from ims3core.diffusion.sampling import ddpm_step, denoise, grid_index
    from ims3core.diffusion.schedule import add_noise, respace

    schedule, first = respace(denoiser.schedule, steps), grid_index(strength, steps=steps)
    start = add_noise(schedule, given, streams(), torch.full((len(given),), first))
    return denoise(
        denoiser, label, streams, step=ddpm_step, schedule=schedule, guidance=guidance, guided_channels=guided_channels,
        start=start, first=first,
    )  # fmt: skip
