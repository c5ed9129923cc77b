"""Images of the class-conditional latent diffusion model, drawn by a sampler and decoded (paper Alg. 2)."""

from __future__ import annotations

from ims3core.axes.sources import SampledSource


class Generated(SampledSource):
    """What methods choose from."""

    noise_stream = "candidates"
