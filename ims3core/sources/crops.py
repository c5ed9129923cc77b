"""Random square crops of real images, several of each image (RDED)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ims3core.params import schema
from ims3core.shell.errors import DataError

if TYPE_CHECKING:
    import torch

    from ims3core.data.inputs import Inputs
    from ims3core.data.pools import Made, Spot, Wanted

SAMPLED = False


class Section(schema.Section):
    crops: schema.Count
    scale: Annotated[list[schema.Fraction], Field(min_length=2, max_length=2)]


def maker(inputs: Inputs, wanted: Wanted, machine: Any, *, crops: int, scale: list[float]) -> Callable:
    """Candidate i is crop i % ``crops`` of image i // ``crops`` of a seeded order of the class, by draw.

    A crop is half as wide as an image and stands in the corner of a black one, as the teacher scores it.
    """
    import torch

    from ims3core.base.seeds import derive_seed, generator
    from ims3core.data.pools import Made

    train = inputs.train
    rows = [torch.nonzero(train.class_index == c).flatten() for c in range(wanted.classes)]
    images = -(-wanted.per_class // crops)
    for own, row in zip(rows, inputs.classes, strict=True):
        if len(own) < images:
            raise DataError(
                f"class {row.name}: found {len(own)} images, wanted {images} ({wanted.per_class} candidates of "
                f"{crops} crops each; a smaller per_class in the row's `set`)"
            )
    side = train.images.shape[-1]
    orders: dict[tuple[int, int], torch.Tensor] = {}

    def make(spots: list[Spot]) -> Made:
        made = []
        for spot in spots:
            place = (spot.draw, spot.class_index)
            if place not in orders:
                stream = generator(wanted.root_seed, f"crops-{wanted.purpose}", *place)
                orders[place] = rows[spot.class_index][torch.randperm(len(rows[spot.class_index]), generator=stream)]
            picture = train.images[int(orders[place][spot.index // crops])]
            stream = torch.Generator().manual_seed(derive_seed(wanted.seed(spot), "crop"))
            canvas = torch.zeros_like(picture)
            canvas[:, : side // 2, : side // 2] = square_crop(picture, side // 2, scale, stream)
            made.append(canvas)
        return Made(torch.stack(made))

    return make


def square_crop(picture: torch.Tensor, side: int, scale: list[float], stream: torch.Generator) -> torch.Tensor:
    """A square of a share of the area in ``scale`` of a uint8 image (C, S, S), anywhere in it, at ``side`` px."""
    import torch
    from torchvision.transforms.v2.functional import resize

    share, top, left = torch.rand(3, generator=stream).tolist()
    whole = picture.shape[-1]
    size = min(whole, max(1, round(whole * (scale[0] + (scale[1] - scale[0]) * share) ** 0.5)))
    top, left = (round(place * (whole - size)) for place in (top, left))
    return resize(picture[:, top : top + size, left : left + size], [side, side], antialias=True)


def calls(wanted: Any, *, crops: int, scale: list[float]) -> int:
    """No network is asked."""
    return 0
