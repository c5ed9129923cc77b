"""No sampler: the source draws no latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.samplers import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams


class NoSampler(Sampler):
    """Stands in the place of a sampler where none is asked."""

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        raise NotImplementedError("the sampler 'none' draws nothing; its source makes images without latents")

    def network_calls(self) -> int:
        return 0
