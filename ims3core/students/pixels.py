"""Images as parameters and as inputs of networks: what training and refinements share."""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor, nn

from ims3core.base import compute
from ims3core.base.compute import Machine
from ims3core.base.seeds import generator
from ims3core.data import ImageSet, IndexedImages, unit
from ims3core.students.augment import build_augmentation
from ims3core.students.settings import Augment
from ims3core.students.warps import Augmentation, Statistics

log = logging.getLogger(__name__)
COMPILING_PAYS = 50_000_000  # pixels that a network sees; the first time takes half a minute on 2 cores


def compiling_pays(machine: Machine, images: float, side: int) -> bool:
    """Whether to compile a network that sees so many images of ``side`` px, forward or back; False where none can."""
    return images * side**2 >= COMPILING_PAYS and compiles(machine)


def compiles(machine: Machine) -> bool:
    """Whether networks can be compiled here, and may be."""
    return machine.compile and _compiler_works(machine.device.type)


@cache
def _compiler_works(device: str) -> bool:
    """Whether there is a compiler; one line if not, however many networks would be compiled."""
    fault = compute.compiler_fault(torch.device(device))
    if fault is not None:
        log.warning(compute.NO_COMPILER, fault)
    return fault is None


def as_parameter(images: Tensor, device: torch.device) -> nn.Parameter:
    """uint8 images (N, C, S, S) as a parameter in [0, 1]."""
    return nn.Parameter(unit(images).to(device))


def as_images(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8 images, rounded."""
    return pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


class RealBatches:
    """Seeded batches of the real images of one class, in [0, 1]."""

    def __init__(self, real: ImageSet, classes: int, device: torch.device) -> None:
        self.images, self.device = real.images, device
        self.rows = [torch.nonzero(real.class_index == c).flatten() for c in range(classes)]

    def __call__(self, class_index: int, size: int, seed: int) -> Tensor:
        """At most ``size`` images of a class, without repetition."""
        rows = self.rows[class_index]
        order = torch.randperm(len(rows), generator=generator(seed, "real-batch", class_index))[:size]
        return unit(self.images[rows[order]].to(self.device))


def differentiable_augmentation(
    spec: Augment, images: Tensor | IndexedImages, statistics: Statistics
) -> Augmentation:  # fmt: skip
    """The augmentation ``spec`` for images like these, without RandAugment and patch shuffle: gradients pass it."""
    kept = spec.model_copy(update={"randaugment": None, "patch_shuffle": 1})
    return build_augmentation(kept, side=images.shape[-1], channels=images.shape[1], statistics=statistics)


class Normaliser(nn.Module):
    """(x - mean) / std of images (B, C, H, W) in [0, 1], mean and std per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
