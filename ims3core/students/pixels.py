"""Images as parameters: what refinements that optimise pixels share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ims3core.base import compute
from ims3core.base.compute import Machine
from ims3core.base.seeds import derive_seed, generator
from ims3core.data import ImageSet
from ims3core.students.augment import Augmentation, build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.optimisers import optimiser
from ims3core.students.protocols import plan

log = logging.getLogger(__name__)
COMPILING_PAYS = 50_000_000  # pixels that a network sees; the first time takes half a minute on 2 cores


def compiling_pays(machine: Machine, images: float, side: int) -> bool:
    """Whether to compile a network that sees so many images of ``side`` px, forward or back; False where none can."""
    return images * side**2 >= COMPILING_PAYS and machine.compile and _compiler_works(machine.device.type)


@cache
def _compiler_works(device: str) -> bool:
    """Whether there is a compiler; one line if not, however many networks would be compiled."""
    fault = compute.compiler_fault(torch.device(device))
    if fault is not None:
        log.warning(compute.NO_COMPILER, fault)
    return fault is None


def as_parameter(images: Tensor, device: torch.device) -> nn.Parameter:
    """uint8 images (N, C, S, S) as a parameter in [0, 1]."""
    return nn.Parameter((images.float() / 255).to(device))


def as_images(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8 images, rounded."""
    return pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


class Features(nn.Module):
    """The features of an own network as a network: what its ``features`` returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) features of images ``x`` (B, C, H, W)."""
        return self.network.features(x)


class RealBatches:
    """Seeded batches of the real images of one class, in [0, 1]."""

    def __init__(self, real: ImageSet, classes: int, device: torch.device) -> None:
        self.images, self.device = real.images, device
        self.rows = [torch.nonzero(real.class_index == c).flatten() for c in range(classes)]

    def __call__(self, class_index: int, size: int, seed: int) -> Tensor:
        """At most ``size`` images of a class, without repetition."""
        own = self.rows[class_index]
        order = torch.randperm(len(own), generator=generator(seed, "real-batch", class_index))[:size]
        return self.images[own[order]].to(self.device).float() / 255


def differentiable_augmentation(values: dict[str, Any], images: Tensor) -> Augmentation:
    """The augmentation of the section ``augment`` for images like these; gradients pass through it."""
    allowed = {key: value for key, value in values.items() if key not in ("randaugment", "patch_shuffle")}
    return build_augmentation(**allowed, side=images.shape[-1], channels=images.shape[1])


def normaliser(statistics: tuple[list[float], list[float]], device: torch.device) -> Callable[[Tensor], Tensor]:
    """(x - mean) / std for images in [0, 1]."""
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in statistics)
    return lambda images: (images - mean) / std


def briefly_trained(
    network: str, real: ImageSet, *, classes: int, steps: int, batch_size: int, lr: float, seed: int,
    augment: dict[str, Any], statistics: tuple[list[float], list[float]], machine: Machine, pays: bool = False,
) -> nn.Module:  # fmt: skip
    """A network after ``steps`` SGD steps on the real images, compiled if that ``pays``; 0 steps: as initialised."""
    images = real.images
    made = build_student(
        network, classes=classes, channels=images.shape[1], side=images.shape[-1], seed=derive_seed(seed, "network")
    )
    machine.trained(made, parts=[made], pays=pays, convolves=True)
    rules = plan(
        ipc=len(images) // classes, classes=classes, images=len(images), epochs=None, steps=max(1, steps),
        batch_size=batch_size, lr=lr, momentum=0.9, weight_decay=5e-4, schedule="constant", cutmix=0.0, evaluations=1,
    )  # fmt: skip
    descend, normalise = optimiser(made, rules), normaliser(statistics, machine.device)
    augmented = differentiable_augmentation(augment, images)
    for step in range(steps):
        rows = torch.randint(len(images), (min(batch_size, len(images)),), generator=generator(seed, "rows", step))
        batch = augmented((images[rows].to(machine.device).float() / 255), derive_seed(seed, "augment", step))
        with machine.autocast():
            loss = nn.functional.cross_entropy(
                made(normalise(batch)).float(), real.class_index[rows].to(machine.device)
            )
        loss.backward()
        descend(lr)
    return made
