"""One cell of the result table: a student trained on every drawn set with every seed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ims3core.base.compute import Machine
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet
from ims3core.students import pixels
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.plans import Plan
from ims3core.students.settings import Augment, Protocol
from ims3core.students.train import TrainingSetup, train_student
from ims3core.students.warps import Statistics

SMALL_SIDE = 64  # pixels
# Steps on larger images, which take half a minute the first time on 2 cores; pixels that are seen of small ones, for
# which a ConvNet takes 16 s of one core the first time, 2 s in later processes, nothing for further runs of a process.
COMPILING_PAYS, COMPILING_PAYS_SMALL = 100, 5_000_000


@dataclass(frozen=True)
class CellSpec:
    """How every student of a cell is trained and scored.

    Attributes:
        student: its name in eval.students, which its seeds are made of; ``network`` is what it is.
        side: image size the student looks at.
        statistics: mean and std per channel of the real training images in [0, 1].
        protocol: the row of ``protocols``; ``protocol_name`` is its name, for error messages.
        augment: the augmentation under the protocol.
        options: of the network, see :func:`ims3core.students.networks.build_student`.
        teacher: of a protocol with soft labels; images (B, C, side, side) in [0, 1] to logits.
    """

    student: str
    network: str
    side: int
    classes: int
    statistics: Statistics
    protocol: Protocol
    augment: Augment
    options: dict[str, Any]
    machine: Machine
    root_seed: int
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None
    protocol_name: str = "of this call"
    _building: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def run(
        self, images: ImageSet, held_out: ImageSet, *, draw: int, seed: int, tiles: int = 1,
        on_progress: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """One training: draw, seed, last_top1, best_top1 (percent), curve and confusion matrix.

        Args:
            images: as they are trained on; ``tiles`` of them are one image of the set.
        """
        run_seed = derive_seed(self.root_seed, "student", self.student, draw, seed)
        count, channels = len(images.images), held_out.images.shape[1]
        with self._building:  # initialisers draw from torch's global stream
            network = build_student(
                self.network, classes=self.classes, channels=channels, side=self.side, seed=run_seed,
                norm=self.protocol.norm, options=self.options,
            )  # fmt: skip
        plan = self.protocol.plan(
            self.network,
            ipc=count // self.classes // tiles,
            classes=self.classes,
            images=count,
            name=self.protocol_name,
        )
        made_ready(network, plan, self.network, side=self.side, machine=self.machine)
        augmentation = build_augmentation(
            self.augment, side=self.side, channels=channels, statistics=self.statistics
        )  # fmt: skip
        setup = TrainingSetup(
            plan, augmentation, self.statistics, self.side, self.machine, self.teacher,
            by_batch=self.augment.dsa is not None,
        )  # fmt: skip
        result = train_student(network, images, held_out, setup, seed=run_seed, on_progress=on_progress)
        return {
            "draw": draw,
            "seed": seed,
            "last_top1": round(result.last_top1, 4),
            "best_top1": round(result.best_top1, 4),
            "curve": [[step, round(loss, 6), round(top1, 4)] for step, loss, top1 in result.curve],
            "confusion": result.confusion.tolist(),
        }


def runs_on_one_thread(network: str, *, side: int, device: torch.device) -> bool:
    """Whether a run is trained on one CPU thread, several of them at once, instead of one after the other on all.

    Layers on small images gain little from more threads, and a score then does not depend on the number of cores.
    Large images fill the threads and the memory alone; timm's dropout draws from torch's global stream.
    """
    return device.type == "cpu" and side <= SMALL_SIDE and not network.startswith("timm:")


def made_ready(network: nn.Module, plan: Plan, name: str, *, side: int, machine: Machine) -> None:
    """Puts a classifier on the machine; compiled, in place, where the run of ``plan`` is long enough for that."""
    pays = compiling_pays(plan, name, side=side, device=machine.device) and pixels.compiles(machine)
    machine.for_training(network, parts=[network], pays=pays, convolves=True)


def compiling_pays(plan: Plan, network: str, *, side: int, device: torch.device) -> bool:
    """Whether a run is so long that its network is compiled where there is a compiler."""
    if runs_on_one_thread(network, side=side, device=device):
        return plan.trained_images * side**2 >= COMPILING_PAYS_SMALL
    return plan.total_steps >= COMPILING_PAYS


def summarise(runs: list[dict[str, Any]], names: list[str], **facts: Any) -> dict[str, Any]:
    """The content of a cell file: ``facts``, the runs, and their confusion matrices (actual x predicted) added up."""
    confusion = torch.stack([torch.tensor(run["confusion"]) for run in runs]).sum(0)
    bare = [{key: value for key, value in run.items() if key != "confusion"} for run in runs]
    return {**facts, "classes": names, "confusion": confusion.tolist(), "runs": bare}
