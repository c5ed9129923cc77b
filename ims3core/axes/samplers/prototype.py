"""Image to image from prototypes: noised to a part of the trajectory, then denoised (D4M)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.samplers import RespacedSampler
from ims3core.base.schema import OpenFraction

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams


class Prototype(RespacedSampler):
    """Ancestral steps from the guide's latents, noised to ``strength``."""

    accepts = ("targets",)

    strength: OpenFraction = Field(description="share of the trajectory that a prototype is noised (D4M: 0.7)")

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        import torch

        from ims3core.diffusion.sampling import ddpm_step, grid_index
        from ims3core.diffusion.schedule import add_noise, respace

        assert guide_latents is not None, "a guide of 'targets' gives the prototypes"
        schedule, first = respace(denoiser.schedule, self.steps), grid_index(self.strength, steps=self.steps)
        start = add_noise(schedule, guide_latents, noise(), torch.full((len(guide_latents),), first))
        return self._denoise(denoiser, labels, noise, ddpm_step, start=(start, first))

    def walked_steps(self) -> int:
        """Those from the noised prototype on."""
        from ims3core.diffusion.sampling import grid_index

        return grid_index(self.strength, steps=self.steps) + 1
