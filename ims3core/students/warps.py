"""What augmentations share: seeds of images and of groups that look alike, and one warp of affine maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Union

import torch
from torch import Tensor

from ims3core.base.seeds import generator
from ims3core.errors import LibraryError

Seed = Union[int, "Alike"]
Augmentation = Callable[[Tensor, Seed], Tensor]
Statistics = tuple[list[float], list[float]]
"""Mean and standard deviation per channel of images in [0, 1]."""


@dataclass(frozen=True)
class Alike:
    """Seeds of groups of images that follow one another: a group is transformed as its first image is under its seed.

    All images of a group thus look the same way (DSA, Zhao & Bilen 2021). Not for RandAugment.
    """

    seeds: list[int]
    sizes: list[int]


def uniform(batch: int, columns: int, seed: Seed, purpose: str) -> Tensor:
    """(batch, columns) in [0, 1); rows are drawn one after the other, so row i does not depend on ``batch``."""
    if isinstance(seed, Alike):
        drawn = torch.cat([torch.rand(1, columns, generator=generator(one, purpose)) for one in seed.seeds])
        return drawn.repeat_interleave(torch.tensor(seed.sizes), dim=0)
    return torch.rand(batch, columns, generator=generator(seed, purpose))


def affine(batch: int) -> Tensor:
    """(batch, 3, 3) identities: maps from source to result, the image being [-1/2, 1/2] along x and y."""
    return torch.eye(3).repeat(batch, 1, 1)


def rotations(angle: Tensor) -> Tensor:
    """(batch, 3, 3) maps that turn images by (batch,) radians about their centres."""
    maps = affine(len(angle))
    maps[:, 0, 0] = maps[:, 1, 1] = torch.cos(angle)
    maps[:, 0, 1] = torch.sin(angle)
    maps[:, 1, 0] = -torch.sin(angle)
    return maps


@cache
def checked_warp() -> Callable[..., Tensor]:
    """kornia's warp; a LibraryError if a shift by 2 px does not give the very pixels back, as in 0.8, which blurs."""
    import kornia
    from kornia.geometry.transform import warp_affine

    point = torch.zeros(1, 1, 8, 8)
    point[..., 3, 3] = 1
    shifted = warp_affine(point, torch.tensor([[[1.0, 0, 2], [0, 1, 0]]]), (8, 8), align_corners=False)
    if abs(found := float(shifted[0, 0, 3, 5]) - 1) > 1e-4:
        raise LibraryError(
            f"kornia {kornia.__version__}: a pixel shifted by 2 px keeps {found + 1:.2f} of its value, wanted all; "
            "`pip install --upgrade kornia`"
        )
    return warp_affine


def warp(images: Tensor, seed: Seed, *, maps: list[Callable[[int, Seed], Tensor]], padding: str) -> Tensor:
    """``images`` (B, C, S, S) under the product of ``maps``, sampled once, bilinearly."""
    batch, _, side, _ = images.shape
    product = affine(batch)
    for draw in maps:
        product = draw(batch, seed) @ product
    # The centre of pixel i lies at (i + 1/2) / side - 1/2; the linear part is the same in both frames.
    linear, shift, centre = product[:, :2, :2], product[:, :2, 2:], torch.full((2, 1), (side - 1) / 2)
    pixels = torch.cat([linear, side * shift + centre - linear @ centre], dim=2)  # (B, 2, 3)
    pixels = pixels.to(images.device, images.dtype)
    return checked_warp()(images, pixels, (side, side), mode="bilinear", padding_mode=padding, align_corners=False)
