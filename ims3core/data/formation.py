"""Images that hold several smaller ones, which are seen enlarged (multi-formation; IDC, Kim et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from ims3core.base.seeds import generator
from ims3core.data import ImageSet, resized


def formed(images: Tensor, factor: int) -> Tensor:
    """What images (N, C, S, S) hold: (N x factor squared, C, S, S), the tiles of an image one after the other.

    Tiles of S // factor pixels, row by row, enlarged bilinearly; pixels beyond the last of them are not seen. uint8 is
    rounded; gradients pass through others. A ``factor`` of 1 is the images themselves.
    """
    if factor == 1:
        return images
    side = images.shape[-1]
    size = side // factor
    tiles = images[:, :, : factor * size, : factor * size].unflatten(2, (factor, size)).unflatten(4, (factor, size))
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    enlarged = torch.nn.functional.interpolate(tiles.float(), size=(side, side), mode="bilinear", align_corners=False)
    return enlarged.round().to(images.dtype) if images.dtype == torch.uint8 else enlarged


def formed_set(images: ImageSet, factor: int) -> ImageSet:
    """A set as it is seen: every image ``factor`` squared times, with its class."""
    if factor == 1:
        return images
    return ImageSet(formed(images.images[:], factor), images.class_index.repeat_interleave(factor**2))


def mosaics(images: Tensor, factor: int) -> Tensor:
    """uint8 images (N x factor squared, C, S, S), of which each factor squared become one (N, C, S, S), row by row."""
    side = images.shape[-1]
    return side_by_side(resized(images, side // factor), factor, side)


def side_by_side(images: Tensor, across: int, side: int) -> Tensor:
    """Small images (N x across squared, C, s, s), row by row in images (N, C, side, side); what is left over is 0."""
    size = images.shape[-1]
    grid = images.unflatten(0, (-1, across, across)).permute(0, 3, 1, 4, 2, 5)  # (n, C, row, s, column, s)
    whole = images.new_zeros(len(grid), images.shape[1], side, side)
    whole[:, :, : across * size, : across * size] = grid.flatten(4, 5).flatten(2, 3)
    return whole


def first_mosaics(chosen: ImageSet, real: ImageSet, factor: int, seed: int) -> ImageSet:
    """``chosen`` with mosaics in the place of its images: each begins with the image, the rest are real ones.

    Real images of its class, none of them again before all of the class have been taken.
    """
    images = chosen.images[:]
    more, parts = factor**2 - 1, torch.empty(len(images), factor**2, *images.shape[1:], dtype=torch.uint8)
    parts[:, 0] = images
    for c in chosen.class_index.unique().tolist():
        own, rows = ((labelled.class_index == c).nonzero().flatten() for labelled in (chosen, real))
        rounds = -(-len(own) * more // len(rows))
        orders = [torch.randperm(len(rows), generator=generator(seed, "mosaic", c, n)) for n in range(rounds)]
        taken = rows[torch.cat(orders)[: len(own) * more]]
        parts[own, 1:] = real.images[taken].unflatten(0, (len(own), more))
    return ImageSet(mosaics(parts.flatten(0, 1), factor), chosen.class_index)
