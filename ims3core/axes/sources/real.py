"""The real training images themselves: nothing is made, every draw chooses from all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.sources import Source

if TYPE_CHECKING:
    from ims3core.axes.sources import ImageMaker, PoolSpec
    from ims3core.base.compute import Machine
    from ims3core.diffusion.inputs import PoolInputs


class Real(Source):
    """An index of the training images."""

    indexed = True
    noise_stream = "real"

    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        """Raises NotImplementedError: the pool is an index of images that exist."""
        raise NotImplementedError("the source 'real' makes no images; its pool is an index of the training images")
