"""Gaussian noise around the mean colour of the real images: where SRe2L starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.sources import Source

if TYPE_CHECKING:
    from ims3core.axes.sources import ImageMaker, PoolSpec
    from ims3core.base.compute import Machine
    from ims3core.data.keys import CandidateKey
    from ims3core.data.pools import CandidateBatch
    from ims3core.diffusion.inputs import PoolInputs


class Noise(Source):
    """Standard normal in the units of the teacher's normalisation, clipped to [0, 1]; each image from its own seed."""

    noise_stream = "noise"

    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        import torch

        from ims3core.data import STATISTICS, read_statistics
        from ims3core.data.pools import CandidateBatch

        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in read_statistics(inputs.real / STATISTICS))
        shape = inputs.train.images.shape[1:]

        def make(keys: list[CandidateKey]) -> CandidateBatch:
            generators = [torch.Generator().manual_seed(spec.seed(key)) for key in keys]
            pixels = torch.stack([mean + std * torch.randn(shape, generator=generator) for generator in generators])
            return CandidateBatch(pixels.clamp(0, 1).mul(255).round().to(torch.uint8))

        return make
