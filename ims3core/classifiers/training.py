"""A classifier trained on the real images: the encoder, or the teacher, of a data set without a pretrained one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ims3core import data
from ims3core.base import files
from ims3core.base.compute import Machine
from ims3core.classifiers.encoder import write_encoder
from ims3core.data import ImageSet
from ims3core.students import cell
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.plans import OptimiserSpec, Plan
from ims3core.students.settings import Augment
from ims3core.students.train import State, TrainingSetup, train
from ims3core.students.warps import Statistics

log = logging.getLogger(__name__)
Progress = Callable[..., Iterator[State]]
CHECKPOINT, CHECKPOINT_EVERY = "checkpoint.safetensors", 100  # steps; which ones changes no byte of the result
SCORE = "score.json"


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


@dataclass(frozen=True)
class RealImages:
    """What a classifier is trained and scored on.

    Attributes:
        classes: number of them.
        statistics: mean and std per channel of the training images in [0, 1].
    """

    train: ImageSet
    validation: ImageSet
    classes: int
    statistics: Statistics


def write_trained(
    path: Path, spec: ClassifierSpec, real: Path, *, augment: Augment, machine: Machine, seed: int, begun: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Writes to the folder ``path`` a network trained on the splits of the folder ``real``, and its :data:`SCORE`.

    Args:
        begun: folder of the checkpoint from which an interrupted training goes on; it is deleted at the end.
        progress: wraps the steps; takes ``total`` and ``done`` like :func:`ims3core.pipeline.progress.track`.
    """
    images = RealImages(
        data.read_split(real / "train"), data.read_split(real / "validation"),
        len(data.read_classes(real / "classes.json")), data.read_statistics(real / data.STATISTICS),
    )  # fmt: skip

    def follow(state: State, states: Iterator[State]) -> None:
        if (begun / CHECKPOINT).is_file():
            state.load(files.read_tensors(begun / CHECKPOINT))
        log.info("%s on %s: step %d of %d", spec.network, machine, state.step, spec.steps)
        for current in progress(states, total=spec.steps, done=state.step):
            if current.step % CHECKPOINT_EVERY == 0:
                files.write_tensors(begun / CHECKPOINT, current.tensors())

    network, config, top1 = train_classifier(spec, images, augment=augment, machine=machine, seed=seed, follow=follow)
    log.info("%s: %.2f %% on the validation split", spec.network, top1)
    write_encoder(path, network, config)
    files.write_json(path / SCORE, {"validation_top1": top1})
    shutil.rmtree(begun, ignore_errors=True)


def _to_the_end(state: State, states: Iterator[State]) -> None:
    for _ in states:
        pass


def train_classifier(
    spec: ClassifierSpec, real: RealImages, *, augment: Augment, machine: Machine, seed: int,
    follow: Callable[[State, Iterator[State]], None] = _to_the_end,
) -> tuple[nn.Module, dict[str, Any], float]:  # fmt: skip
    """A network, the configuration to keep beside its weights, and its accuracy in percent on the validation split.

    Args:
        follow: goes through the states of the training, of which the first argument is the one before the first step.
    """
    channels, side, classes = real.train.images.shape[1], real.train.images.shape[-1], real.classes
    network = build_student(spec.network, classes=classes, channels=channels, side=side, norm=spec.norm, seed=seed)
    optimiser = OptimiserSpec(spec.lr, "sgd", spec.momentum, spec.weight_decay, schedule="cosine")
    plan = Plan(len(real.train.images), spec.batch_size, optimiser, steps=spec.steps, cutmix=spec.cutmix)
    augmentation = build_augmentation(augment, side=side, channels=channels, statistics=real.statistics)
    setup = TrainingSetup(
        plan, augmentation, real.statistics, side, machine, by_batch=augment.dsa is not None
    )  # fmt: skip
    cell.made_ready(network, plan, spec.network, side=side, machine=machine)
    state = State(network, setup)
    follow(state, train(state, real.train, real.validation, setup, seed=seed))
    mean, std = real.statistics
    sizes = {"classes": classes, "channels": channels, "side": side}
    config: dict[str, Any] = {"name": spec.network, **sizes, "mean": mean, "std": std}
    if spec.norm != "instance":
        config["norm"] = spec.norm
    return network, config, round(state.curve[-1].top1, 4)
