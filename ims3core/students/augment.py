"""Augmentation of image batches in [0, 1], with parameters of its own for every image, and CutMix.

Crop, flip, rotation and translation are one affine map each; their product is applied by a single
bilinear warp (kornia), so images are blurred once and nothing is rounded to whole pixels. kornia's
augmentation classes warp once per operation, round crops to pixels (coarse at 8 px) and draw from
torch's global stream, hence only kornia's warp is used and the parameters are drawn here.

Image i of a batch draws row i of each operation's own stream, so its augmentation depends on the
seed and on i only: not on the images beside or behind it, nor on which other operations are on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Union

import torch
from torch import Tensor

from ims3core.base.seeds import derive_seed, generator, scoped_rng
from ims3core.data import unit
from ims3core.errors import LibraryError, ParameterError
from ims3core.students.settings import Augment

Seed = Union[int, "Alike"]
Augmentation = Callable[[Tensor, Seed], Tensor]

_GLOBAL_STREAM = threading.Lock()
CROP_ATTEMPTS = 10
CROP_RATIO = (3 / 4, 4 / 3)
GREY_WEIGHTS = (0.299, 0.587, 0.114)
# Principal components of the colours of ImageNet (Krizhevsky et al. 2012); columns belong to the values.
LIGHTING_VALUES = (0.2175, 0.0188, 0.0045)
LIGHTING_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def build_augmentation(spec: Augment, *, side: int, channels: int) -> Augmentation:
    """A function (images (B, C, side, side), seed) -> augmented images; what is off is not built.

    Order: patch shuffle (RDED), crop, flip, rotate, translate, RandAugment (IMS3's code), colour jitter, PCA lighting
    (IDC). Values are not clamped. Pixels from outside the image are 0 where rotation or translation is on, else its
    border.

    Raises:
        ParameterError: colour operations on images that are not RGB, or patches that do not divide the side.
    """
    for key, value in {"colour": spec.colour, "lighting": spec.lighting}.items():
        if value and channels != 3:
            raise ParameterError(f"augment.{key}: found {value} for images of {channels} channel(s); wanted 0, or RGB")

    maps: list[Callable[[int, Seed], Tensor]] = []
    if spec.crop_scale is not None:
        maps.append(partial(_crop_maps, scale=(spec.crop_scale[0], spec.crop_scale[1])))
    if spec.flip:
        maps.append(partial(_flip_maps, probability=spec.flip))
    if spec.rotate:
        maps.append(partial(_rotation_maps, degrees=spec.rotate))
    if spec.translate:
        maps.append(partial(_translation_maps, fraction=spec.translate))

    operations: list[Augmentation] = []
    if spec.patch_shuffle > 1:
        if side % spec.patch_shuffle:
            raise ParameterError(f"augment.patch_shuffle: {spec.patch_shuffle} does not divide images of {side} px")
        operations.append(partial(_shuffle_patches, parts=spec.patch_shuffle))
    if maps:
        _checked_warp()  # before anything is trained
        operations.append(partial(_warp, maps=maps, padding="zeros" if spec.rotate or spec.translate else "border"))
    if spec.randaugment:
        operations.append(partial(_randaugment, count=spec.randaugment[0], magnitude=spec.randaugment[1]))
    if spec.colour:
        operations.append(partial(_jitter_colours, strength=spec.colour))
    if spec.lighting:
        operations.append(partial(_add_lighting, std=spec.lighting))

    def augment(images: Tensor, seed: Seed) -> Tensor:
        for operation in operations:
            images = operation(images, seed)
        return images

    return augment


def cutmix(images: Tensor, *, stream: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """A batch whose images exchanged one box, their partners, and the box's true share of the area (Yun et al. 2019).

    Image i receives the box of image ``partners[i]``; the loss is to be (1 - share) times that of its own class
    plus share times that of its partner's. One box per batch: its area share before clipping at the border is drawn
    from Beta(1, 1), its centre uniformly. Own function: kornia's and torchvision's draw from the global stream only.

    Args:
        images: (B, C, H, W).
        stream: of the CPU.

    Returns:
        New images (B, C, H, W), partners (B,) int64 and the share in [0, 1].
    """
    batch, _, height, width = images.shape
    box_share, centre_y, centre_x = torch.rand(3, generator=stream, dtype=torch.float64).tolist()
    partners = torch.randperm(batch, generator=stream).to(images.device)
    top, bottom = _clipped_interval(centre_y, math.sqrt(box_share), height)
    left, right = _clipped_interval(centre_x, math.sqrt(box_share), width)

    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return mixed, partners, (bottom - top) * (right - left) / (height * width)


def _clipped_interval(centre: float, share: float, side: int) -> tuple[int, int]:
    """First and past-the-last pixel of ``share`` of ``side`` px around the pixel at fraction ``centre``."""
    pixel, half = int(centre * side), int(share * side) // 2
    return max(pixel - half, 0), min(pixel + half, side)


@dataclass(frozen=True)
class Alike:
    """Seeds of groups of images that follow one another: a group is transformed as its first image is under its seed.

    All images of a group thus look the same way (DSA, Zhao & Bilen 2021). Not for RandAugment.
    """

    seeds: list[int]
    sizes: list[int]


def _uniform(batch: int, columns: int, seed: Seed, purpose: str) -> Tensor:
    """(batch, columns) in [0, 1); rows are drawn one after the other, so row i does not depend on ``batch``."""
    if isinstance(seed, Alike):
        drawn = torch.cat([torch.rand(1, columns, generator=generator(one, purpose)) for one in seed.seeds])
        return drawn.repeat_interleave(torch.tensor(seed.sizes), dim=0)
    return torch.rand(batch, columns, generator=generator(seed, purpose))


def _affine(batch: int) -> Tensor:
    """(batch, 3, 3) identities: maps from source to result, the image being [-1/2, 1/2] along x and y."""
    return torch.eye(3).repeat(batch, 1, 1)


def _crop_maps(batch: int, seed: Seed, *, scale: tuple[float, float]) -> Tensor:
    """Random resized crops: the first of ten drawn boxes that fits the image, else all of it (Szegedy et al. 2015)."""
    draws = _uniform(batch, 2 * CROP_ATTEMPTS + 2, seed, "crop")
    area = scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_ATTEMPTS]
    low, high = map(math.log, CROP_RATIO)
    ratio = torch.exp(low + (high - low) * draws[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])
    sizes = torch.stack([torch.sqrt(area * ratio), torch.sqrt(area / ratio)], dim=-1)  # (B, attempts, 2): width, height
    fits = (sizes <= 1).all(-1)
    size = sizes[torch.arange(batch), fits.int().argmax(1)]
    size = torch.where(fits.any(1, keepdim=True), size, torch.ones(()))
    centre = (draws[:, -2:] - 0.5) * (1 - size)
    maps = _affine(batch)
    maps[:, :2, :2] = torch.diag_embed(1 / size)
    maps[:, :2, 2] = -centre / size
    return maps


def _flip_maps(batch: int, seed: Seed, *, probability: float) -> Tensor:
    maps = _affine(batch)
    maps[:, 0, 0] = torch.where(_uniform(batch, 1, seed, "flip")[:, 0] < probability, -1.0, 1.0)
    return maps


def _rotation_maps(batch: int, seed: Seed, *, degrees: float) -> Tensor:
    angle = math.radians(degrees) * (2 * _uniform(batch, 1, seed, "rotate")[:, 0] - 1)
    maps = _affine(batch)
    maps[:, 0, 0] = maps[:, 1, 1] = torch.cos(angle)
    maps[:, 0, 1] = torch.sin(angle)
    maps[:, 1, 0] = -torch.sin(angle)
    return maps


def _translation_maps(batch: int, seed: Seed, *, fraction: float) -> Tensor:
    maps = _affine(batch)
    maps[:, :2, 2] = fraction * (2 * _uniform(batch, 2, seed, "translate") - 1)
    return maps


@cache
def _checked_warp() -> Callable[..., Tensor]:
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


def _warp(images: Tensor, seed: Seed, *, maps: list[Callable[[int, Seed], Tensor]], padding: str) -> Tensor:
    """``images`` (B, C, S, S) under the product of ``maps``, sampled once, bilinearly."""
    batch, _, side, _ = images.shape
    product = _affine(batch)
    for draw in maps:
        product = draw(batch, seed) @ product
    # The centre of pixel i lies at (i + 1/2) / side - 1/2; the linear part is the same in both frames.
    linear, shift, centre = product[:, :2, :2], product[:, :2, 2:], torch.full((2, 1), (side - 1) / 2)
    pixels = torch.cat([linear, side * shift + centre - linear @ centre], dim=2)  # (B, 2, 3)
    pixels = pixels.to(images.device, images.dtype)
    return _checked_warp()(images, pixels, (side, side), mode="bilinear", padding_mode=padding, align_corners=False)


def _shuffle_patches(images: Tensor, seed: Seed, *, parts: int) -> Tensor:
    """Each image cut into ``parts`` x ``parts`` patches, which are put together in an order of its own (RDED)."""
    batch, channels, side, _ = images.shape
    order = _uniform(batch, parts**2, seed, "patches").argsort(1).to(images.device)
    size = side // parts
    cut = images.view(batch, channels, parts, size, parts, size).permute(0, 2, 4, 1, 3, 5)  # (B, row, column, C, s, s)
    cut = cut.reshape(batch, parts**2, channels, size, size)
    cut = cut.gather(1, order[:, :, None, None, None].expand_as(cut)).view(batch, parts, parts, channels, size, size)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def _randaugment(images: Tensor, seed: int, *, count: int, magnitude: int) -> Tensor:
    """torchvision's RandAugment on 8-bit images, each from a stream of its own.

    It draws from torch's global stream alone, so runs side by side take turns.
    """
    from torchvision.transforms.v2 import RandAugment

    operation = RandAugment(num_ops=count, magnitude=magnitude)
    grey = images.shape[1] == 1
    pictures = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    done = []
    with _GLOBAL_STREAM:
        for n, picture in enumerate(pictures.expand(-1, 3, -1, -1) if grey else pictures):
            with scoped_rng(derive_seed(seed, "randaugment", n)):
                done.append(operation(picture))
    stacked = unit(torch.stack(done)).to(images)
    return stacked[:, :1] if grey else stacked


def _jitter_colours(images: Tensor, seed: Seed, *, strength: float) -> Tensor:
    """Brightness, contrast and saturation in an order drawn per image: x + a (reference - x), not clamped (IDC).

    a ~ U(-strength, strength); the references are 0, the mean of the grey image and the grey image.
    """
    draws = _uniform(len(images), 6, seed, "colour").to(images)
    amount = strength * (2 * draws[:, :3] - 1)
    order = draws[:, 3:].argsort(dim=1)
    weights = images.new_tensor(GREY_WEIGHTS)[:, None, None]
    for operation in order.unbind(1):
        grey = (weights * images).sum(1, keepdim=True)
        saturation, contrast = (operation == 2)[:, None, None, None], (operation == 1)[:, None, None, None]
        reference = torch.where(saturation, grey, torch.where(contrast, grey.mean((2, 3), keepdim=True), 0.0))
        images = images + amount.gather(1, operation[:, None])[:, :, None, None] * (reference - images)
    return images


def _add_lighting(images: Tensor, seed: Seed, *, std: float) -> Tensor:
    """PCA lighting: adds one colour per image, normal along the principal components (Krizhevsky et al. 2012)."""
    # Normals by inversion: torch.randn fills blocks of rows together, so its rows would depend on the batch.
    uniform = _uniform(len(images), 3, seed, "lighting").double().clamp(min=2**-25)
    strengths = std * torch.special.ndtri(uniform) * torch.tensor(LIGHTING_VALUES, dtype=torch.float64)
    colours = strengths @ torch.tensor(LIGHTING_VECTORS, dtype=torch.float64).T
    return images + colours.to(images)[:, :, None, None]
