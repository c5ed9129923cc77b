"""A classifier trained on the real images: the encoder, or the teacher, of a data set without a pretrained one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ims3core import data
from ims3core.base.compute import Machine
from ims3core.data import ImageSet
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.pixels import Statistics
from ims3core.students.plans import OptimiserSpec, Plan
from ims3core.students.settings import Augment
from ims3core.students.train import TrainingSetup, train_student


@dataclass(frozen=True)
class ClassifierSpec:
    """The keys of the section ``encoder`` or ``teacher`` that say how it is trained: SGD, cosine to 0."""

    network: str
    steps: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    cutmix: float
    norm: str = "instance"


def train_on_real_images(
    spec: ClassifierSpec, real: Path, *, augment: Augment, machine: Machine, seed: int
) -> tuple[nn.Module, dict[str, Any], float]:
    """What :func:`train_classifier` returns, of the splits and classes of the folder ``real``."""
    return train_classifier(
        spec, data.read_split(real / "train"), data.read_split(real / "validation"),
        classes=len(data.read_classes(real / "classes.json")), statistics=data.read_statistics(real / data.STATISTICS),
        augment=augment, machine=machine, seed=seed,
    )  # fmt: skip


def train_classifier(
    spec: ClassifierSpec, real: ImageSet, validation: ImageSet, *, classes: int, statistics: Statistics,
    augment: Augment, machine: Machine, seed: int,
) -> tuple[nn.Module, dict[str, Any], float]:  # fmt: skip
    """A network, the configuration to keep beside its weights, and its accuracy in percent on ``validation``.

    Args:
        statistics: mean and std per channel of the training images in [0, 1].
    """
    channels, side = real.images.shape[1], real.images.shape[-1]
    network = build_student(spec.network, classes=classes, channels=channels, side=side, norm=spec.norm, seed=seed)
    optimiser = OptimiserSpec(spec.lr, "sgd", spec.momentum, spec.weight_decay, schedule="cosine")
    plan = Plan(len(real.images), spec.batch_size, optimiser, steps=spec.steps, cutmix=spec.cutmix)
    augmentation = build_augmentation(augment, side=side, channels=channels)
    setup = TrainingSetup(plan, augmentation, statistics, side, machine)
    result = train_student(network, real, validation, setup, seed=seed)
    mean, std = statistics
    sizes = {"classes": classes, "channels": channels, "side": side}
    config: dict[str, Any] = {"name": spec.network, **sizes, "mean": mean, "std": std}
    if spec.norm != "instance":
        config["norm"] = spec.norm
    return network, config, round(result.last_top1, 4)
