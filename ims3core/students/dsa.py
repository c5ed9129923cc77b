"""Differentiable Siamese augmentation (DSA, Zhao & Bilen 2021): one operation at random for a whole batch.

Written from the paper and the strengths of its code. A plain batch shares the operation, and every image has parameters
of its own; a group that looks :class:`~ims3core.students.warps.Alike` shares both, with every other batch of its seed.
Gradients pass through all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ims3core.students.settings import Dsa
from ims3core.students.warps import Alike, Augmentation, Seed, Statistics, affine, rotations, uniform, warp


def siamese(spec: Dsa, statistics: Statistics) -> Augmentation:
    """A function (images (B, C, S, S) in [0, 1], seed) -> augmented images, not clamped.

    Args:
        statistics: mean and std per channel. The paper augments normalised images: 0, which fills what comes from
            outside, is the mean colour, and brightness is measured in standard deviations.
    """
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in statistics)

    def one(images: Tensor, seed: Seed) -> Tensor:
        first = seed.seeds[0] if isinstance(seed, Alike) else seed
        chosen = spec.operations[int(uniform(1, 1, first, "dsa") * len(spec.operations))]
        shift, scale = mean.to(images), std.to(images)
        return _OPERATIONS[chosen]((images - shift) / scale, seed, spec) * scale + shift

    def augment(images: Tensor, seed: Seed) -> Tensor:
        if not isinstance(seed, Alike):
            return one(images, seed)
        parts = zip(images.split(seed.sizes), seed.seeds, seed.sizes, strict=True)
        return torch.cat([one(part, Alike([own], [size])) for part, own, size in parts])

    return augment


def _colour(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    """Brightness, then saturation, then contrast."""
    draws = uniform(len(images), 3, seed, "dsa-colour").to(images)[:, :, None, None, None]
    images = images + spec.brightness * (draws[:, 0] - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + spec.saturation * draws[:, 1] * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (spec.contrast + draws[:, 2]) * (images - mean)


def _crop(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    """A shift by whole pixels along either side."""
    side = images.shape[-1]
    most = int(side * spec.crop + 0.5)
    shifts = (uniform(len(images), 2, seed, "dsa-crop") * (2 * most + 1)).long().to(images.device)  # 0 .. 2 most
    padded = torch.nn.functional.pad(images, (most, most, most, most))
    rows, columns = (torch.arange(side, device=images.device) + shift[:, None] for shift in shifts.unbind(1))
    every = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    """A square around a pixel drawn from the whole image is 0; it may reach over the border."""
    side = images.shape[-1]
    size = int(side * spec.cutout + 0.5)
    centres = (uniform(len(images), 2, seed, "dsa-cutout") * (side + 1 - size % 2)).long().to(images.device)
    pixels = torch.arange(side, device=images.device)
    inside = [(pixels >= one - size // 2) & (pixels < one - size // 2 + size) for one in centres[:, :, None].unbind(1)]
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _flip(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    mirrored = uniform(len(images), 1, seed, "dsa-flip").to(images.device) < spec.flip
    return torch.where(mirrored[:, :, None, None], images.flip(3), images)


def _scale(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    """Either side by a factor of its own; the centre stays."""

    def maps(batch: int, seed: Seed) -> Tensor:
        low = 1 / spec.scale
        reduced = low + (spec.scale - low) * uniform(batch, 2, seed, "dsa-scale")
        made = affine(batch)
        made[:, 0, 0], made[:, 1, 1] = 1 / reduced[:, 0], 1 / reduced[:, 1]
        return made

    return warp(images, seed, maps=[maps], padding="zeros")


def _rotate(images: Tensor, seed: Seed, spec: Dsa) -> Tensor:
    def maps(batch: int, seed: Seed) -> Tensor:
        return rotations(math.radians(spec.rotate) * (2 * uniform(batch, 1, seed, "dsa-rotate")[:, 0] - 1))

    return warp(images, seed, maps=[maps], padding="zeros")


_OPERATIONS: dict[str, Callable[[Tensor, Seed, Dsa], Tensor]] = {
    "colour": _colour, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate,
}  # fmt: skip
