"""Deterministic sampling from starts at some noise level, drawn from statistics of inverted real latents (D3HR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.samplers import RespacedSampler
from ims3core.base.schema import OpenFraction

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams


class FromStatistics(RespacedSampler):
    """DDIM from the guide's starts; nothing is random."""

    accepts = ("starts",)

    level: OpenFraction = Field(description="share of the trajectory at which the starts stand, as the guide's")

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        from ims3core.diffusion.sampling import ddim_step, grid_index

        assert guide_latents is not None, "a guide of 'starts' gives them"
        start = (guide_latents, grid_index(self.level, steps=self.steps))
        return self._denoise(denoiser, labels, noise, ddim_step, start=start)

    def walked_steps(self) -> int:
        """Those below the level."""
        from ims3core.diffusion.sampling import grid_index

        return grid_index(self.level, steps=self.steps) + 1
