"""Respaced ancestral sampling with learned variance, as DiT samples (DDPM; improved DDPM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.samplers import RespacedSampler

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams


class DDPM(RespacedSampler):
    """Denoising diffusion probabilistic models (Ho et al. 2020): fresh noise after every step but the last."""

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        from ims3core.diffusion.sampling import ddpm_step

        return self._denoise(denoiser, labels, noise, ddpm_step)
