"""Deterministic sampling (DDIM; paper Eq. 1): the start alone decides the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.samplers import RespacedSampler

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams


class DDIM(RespacedSampler):
    """Denoising diffusion implicit models (Song et al. 2021)."""

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        from ims3core.diffusion.sampling import ddim_step

        return self._denoise(denoiser, labels, noise, ddim_step)
