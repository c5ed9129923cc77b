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
from functools import partial

import torch
from torch import Tensor

from ims3core.base.seeds import derive_seed, scoped_rng
from ims3core.data import unit
from ims3core.errors import ParameterError
from ims3core.students.dsa import siamese
from ims3core.students.settings import Augment
from ims3core.students.warps import Augmentation, Seed, Statistics, affine, checked_warp, rotations, uniform, warp

_GLOBAL_STREAM = threading.Lock()
CROP_ATTEMPTS = 10
CROP_RATIO = (3 / 4, 4 / 3)
GREY_WEIGHTS = (0.299, 0.587, 0.114)
# Principal components of the colours of ImageNet (Krizhevsky et al. 2012); columns belong to the values.
LIGHTING_VALUES = (0.2175, 0.0188, 0.0045)
LIGHTING_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def build_augmentation(
    spec: Augment, *, side: int, channels: int, statistics: Statistics = ([0.0], [1.0])
) -> Augmentation:  # fmt: skip
    """A function (images (B, C, side, side), seed) -> augmented images; what is off is not built.

    Order: patch shuffle (RDED), crop, flip, rotate, translate, RandAugment (IMS3's code), colour jitter, PCA lighting
    (IDC), DSA. Values are not clamped. Pixels from outside the image are 0 where rotation or translation is on, else
    its border.

    Args:
        statistics: mean and std per channel of the real images, which DSA's strengths are relative to.

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
        checked_warp()  # before anything is trained
        operations.append(partial(warp, maps=maps, padding="zeros" if spec.rotate or spec.translate else "border"))
    if spec.randaugment:
        operations.append(partial(_randaugment, count=spec.randaugment[0], magnitude=spec.randaugment[1]))
    if spec.colour:
        operations.append(partial(_jitter_colours, strength=spec.colour))
    if spec.lighting:
        operations.append(partial(_add_lighting, std=spec.lighting))
    if spec.dsa is not None:
        operations.append(siamese(spec.dsa, statistics))

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


def _crop_maps(batch: int, seed: Seed, *, scale: tuple[float, float]) -> Tensor:
    """Random resized crops: the first of ten drawn boxes that fits the image, else all of it (Szegedy et al. 2015)."""
    draws = uniform(batch, 2 * CROP_ATTEMPTS + 2, seed, "crop")
    area = scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_ATTEMPTS]
    low, high = map(math.log, CROP_RATIO)
    ratio = torch.exp(low + (high - low) * draws[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])
    sizes = torch.stack([torch.sqrt(area * ratio), torch.sqrt(area / ratio)], dim=-1)  # (B, attempts, 2): width, height
    fits = (sizes <= 1).all(-1)
    size = sizes[torch.arange(batch), fits.int().argmax(1)]
    size = torch.where(fits.any(1, keepdim=True), size, torch.ones(()))
    centre = (draws[:, -2:] - 0.5) * (1 - size)
    maps = affine(batch)
    maps[:, :2, :2] = torch.diag_embed(1 / size)
    maps[:, :2, 2] = -centre / size
    return maps


def _flip_maps(batch: int, seed: Seed, *, probability: float) -> Tensor:
    maps = affine(batch)
    maps[:, 0, 0] = torch.where(uniform(batch, 1, seed, "flip")[:, 0] < probability, -1.0, 1.0)
    return maps


def _rotation_maps(batch: int, seed: Seed, *, degrees: float) -> Tensor:
    return rotations(math.radians(degrees) * (2 * uniform(batch, 1, seed, "rotate")[:, 0] - 1))


def _translation_maps(batch: int, seed: Seed, *, fraction: float) -> Tensor:
    maps = affine(batch)
    maps[:, :2, 2] = fraction * (2 * uniform(batch, 2, seed, "translate") - 1)
    return maps


def _shuffle_patches(images: Tensor, seed: Seed, *, parts: int) -> Tensor:
    """Each image cut into ``parts`` x ``parts`` patches, which are put together in an order of its own (RDED)."""
    batch, channels, side, _ = images.shape
    order = uniform(batch, parts**2, seed, "patches").argsort(1).to(images.device)
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
    draws = uniform(len(images), 6, seed, "colour").to(images)
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
    drawn = uniform(len(images), 3, seed, "lighting").double().clamp(min=2**-25)
    strengths = std * torch.special.ndtri(drawn) * torch.tensor(LIGHTING_VALUES, dtype=torch.float64)
    colours = strengths @ torch.tensor(LIGHTING_VECTORS, dtype=torch.float64).T
    return images + colours.to(images)[:, :, None, None]
