"""One cell of the result table: a student trained on every drawn set with every seed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ims3core.base import files
from ims3core.base.compute import Machine, one_thread_each
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.protocols import plan
from ims3core.students.train import train_student

SMALL_SIDE = 64  # pixels
COMPILING_PAYS = 100  # steps on larger images; the first time takes half a minute on 2 cores


@dataclass(frozen=True)
class Recipe:
    """How every student of a cell is trained and scored.

    Attributes:
        student: its name in eval.students, which its seeds are made of; ``network`` is what it is.
        side: image size the student looks at.
        statistics: mean and std per channel of the real training images.
        protocol, augment: the values of a row of ``protocols`` that shape the plan, and of its augmentation.
        norm, options: of the network, see :func:`ims3core.students.networks.build_student`.
        teacher: of a protocol with soft labels; images (B, C, side, side) in [0, 1] to logits.
    """

    student: str
    network: str
    side: int
    classes: int
    statistics: tuple[list[float], list[float]]
    protocol: dict[str, Any]
    augment: dict[str, Any]
    norm: str
    options: dict[str, Any]
    machine: Machine
    root_seed: int
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None
    _building: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def run(
        self, images: ImageSet, held_out: ImageSet, *, draw: int, seed: int, on_progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """One record: draw, seed, last_top1, best_top1 (percent), curve and confusion matrix."""
        run_seed = derive_seed(self.root_seed, "student", self.student, draw, seed)
        count, channels = len(images.images), held_out.images.shape[1]
        with self._building:  # initialisers draw from torch's global stream
            network = build_student(
                self.network, classes=self.classes, channels=channels, side=self.side, seed=run_seed,
                norm=self.norm, options=self.options,
            )  # fmt: skip
        rules = plan(ipc=count // self.classes, classes=self.classes, images=count, **self.protocol)
        if not side_by_side(self.network, side=self.side, device=self.machine.device):
            pays = rules.total_steps >= COMPILING_PAYS
            self.machine.trained(network, parts=[network], pays=pays, convolves=True)
        result = train_student(
            network, images.images, images.class_index, side=self.side,
            test_images=held_out.images, test_class_index=held_out.class_index,
            plan=rules,
            augmentation=build_augmentation(**self.augment, side=self.side, channels=channels),
            mean=self.statistics[0], std=self.statistics[1],
            seed=run_seed, device=self.machine.device, precision=self.machine.precision, teacher=self.teacher,
            on_progress=on_progress,
        )  # fmt: skip
        return {
            "draw": draw,
            "seed": seed,
            "last_top1": round(result.last_top1, 4),
            "best_top1": round(result.best_top1, 4),
            "curve": [[step, round(loss, 6), round(top1, 4)] for step, loss, top1 in result.curve],
            "confusion": result.confusion.tolist(),
        }


def run_cell(
    recipe: Recipe,
    sets: list[ImageSet],
    held_out: ImageSet,
    paths: dict[tuple[int, int], Path],
    progress: Callable[[Iterable], Iterator] = iter,
) -> list[dict[str, Any]]:
    """Scores on ``held_out`` of a student for every (draw, seed) of ``paths``.

    A run that is finished is written to its path at once and read back by a restarted stage. Where
    :func:`side_by_side`, as many train at once as there are threads, on one each; one that fails, or an interrupt,
    stops the others at their next step.

    Args:
        sets: one training set per draw.

    Returns:
        One record per run, in the order of ``paths``.
    """
    stopped = threading.Event()

    def stop_if_told(done: int) -> None:
        if stopped.is_set():
            raise CancelledError

    def run(draw: int, seed: int) -> dict[str, Any]:
        path = paths[draw, seed]
        if not path.is_file():
            record = recipe.run(sets[draw], held_out, draw=draw, seed=seed, on_progress=stop_if_told)
            files.write_json(path, record)
        return files.read_json(path)

    if not side_by_side(recipe.network, side=recipe.side, device=recipe.machine.device):
        return list(progress(run(*pair) for pair in paths))
    runs: list[Future[dict[str, Any]]] = []
    with one_thread_each() as threads, ThreadPoolExecutor(min(threads, len(paths))) as pool:
        try:
            runs += [pool.submit(run, *pair) for pair in paths]
            for finished in progress(as_completed(runs)):
                finished.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return [finished.result() for finished in runs]


def side_by_side(network: str, *, side: int, device: torch.device) -> bool:
    """Whether the runs of a cell train at once, on one CPU thread each, instead of one after the other on all.

    Layers on small images gain little from more threads, and a score then does not depend on the number of cores.
    Large images fill the threads and the memory alone; timm's dropout draws from torch's global stream.
    """
    return device.type == "cpu" and side <= SMALL_SIDE and not network.startswith("timm:")


def summarise(runs: list[dict[str, Any]], names: list[str], **facts: Any) -> dict[str, Any]:
    """The content of a cell file: ``facts``, the runs, and their confusion matrices (actual x predicted) added up."""
    confusion = sum(torch.tensor(run["confusion"]) for run in runs)
    bare = [{key: value for key, value in run.items() if key != "confusion"} for run in runs]
    return {**facts, "classes": names, "confusion": confusion.tolist(), "runs": bare}
