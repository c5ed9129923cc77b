"""Random square crops of real images, several of each image (RDED)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.sources import Source
from ims3core.base.schema import Count, Interval
from ims3core.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.axes.sources import ImageMaker, PoolSpec
    from ims3core.base.compute import Machine
    from ims3core.data.keys import CandidateKey
    from ims3core.data.pools import CandidateBatch
    from ims3core.diffusion.inputs import PoolInputs


class Crops(Source):
    """Crops half as wide as an image, each in the corner of a black one, as the teacher scores it."""

    noise_stream = "crops"

    crops: Count = Field(description="crops of each image (RDED: 5)")
    scale: Interval = Field(description="share of the area, least and most (RDED: 0.08 to 1, at 224 px)")

    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        """Candidate i is crop i % ``crops`` of image i // ``crops`` of a seeded order of the class, by draw."""
        import torch

        from ims3core.base.seeds import derive_seed, generator
        from ims3core.data.pools import CandidateBatch

        train, rows = inputs.train, self._rows(inputs, spec)
        side = train.images.shape[-1] // 2

        @cache
        def order(draw: int, class_index: int) -> Tensor:
            random = generator(spec.root_seed, f"crops-{spec.noise_stream}", draw, class_index)
            return rows[class_index][torch.randperm(len(rows[class_index]), generator=random)]

        def make(keys: list[CandidateKey]) -> CandidateBatch:
            images = []
            for key in keys:
                image = train.images[int(order(key.draw, key.class_index)[key.index // self.crops])]
                random = torch.Generator().manual_seed(derive_seed(spec.seed(key), "crop"))
                canvas = torch.zeros_like(image)
                canvas[:, :side, :side] = square_crop(image, side, self.scale, random)
                images.append(canvas)
            return CandidateBatch(torch.stack(images))

        return make

    def _rows(self, inputs: PoolInputs, spec: PoolSpec) -> list[Tensor]:
        """Row numbers of the images of every class; a DataError names one that has too few."""
        rows = [(inputs.train.class_index == c).nonzero().flatten() for c in range(spec.classes)]
        needed = -(-spec.per_class // self.crops)
        for numbers, row in zip(rows, inputs.classes, strict=True):
            if len(numbers) < needed:
                raise DataError(
                    f"class {row.name}: found {len(numbers)} images, wanted {needed} ({spec.per_class} candidates of "
                    f"{self.crops} crops each; a smaller per_class in the row's `set`)"
                )
        return rows


def square_crop(image: Tensor, side: int, scale: list[float], generator: torch.Generator) -> Tensor:
    """A square of a share of the area in ``scale`` of a uint8 image (C, S, S), anywhere in it, at ``side`` px."""
    import torch
    from torchvision.transforms.v2.functional import resize

    share, *corner = torch.rand(3, generator=generator).tolist()
    full = image.shape[-1]
    size = min(full, max(1, round(full * (scale[0] + (scale[1] - scale[0]) * share) ** 0.5)))
    top, left = (round(position * (full - size)) for position in corner)
    crop: Tensor = resize(image[:, top : top + size, left : left + size], [side, side], antialias=True)
    return crop
