"""One cell of the result table: a student trained on every drawn set with every seed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from ims3core import files
from ims3core.compute import one_thread_each
from ims3core.data import ImageSet
from ims3core.seeds import derive_seed
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.protocols import plan
from ims3core.students.train import train_student

SMALL_SIDE = 64  # pixels


def run_cell(
    directory: Path,
    sets: list[ImageSet],
    held_out: ImageSet,
    *,
    student: str,
    side: int,
    classes: int,
    seeds: int,
    statistics: tuple[list[float], list[float]],
    protocol: dict[str, Any],
    augment: dict[str, Any],
    device: torch.device,
    precision: str,
    root_seed: int,
    progress: Callable[[Iterable], Iterator] = iter,
) -> list[dict[str, Any]]:
    """Scores of ``student`` on ``held_out`` for every set (draw) and student seed.

    A run that is finished is written to ``directory`` at once and read back by a restarted stage. Where
    :func:`side_by_side`, as many train at once as there are threads, on one each; one that fails, or an interrupt,
    stops the others at their next step.

    Args:
        sets: one training set per draw.
        side: image size the student looks at.
        statistics: mean and std per channel of the real training images.
        protocol, augment: the values of the ``protocols.<name>`` and ``augment`` sections.

    Returns:
        One record per run: draw, seed, last_top1, best_top1 (percent), curve and confusion matrix.
    """
    channels = held_out.images.shape[1]
    augmentation = build_augmentation(**augment, side=side, channels=channels)
    building, stopped = threading.Lock(), threading.Event()

    def stop_if_told(done: int) -> None:
        if stopped.is_set():
            raise CancelledError

    def run(draw: int, seed: int) -> dict[str, Any]:
        path = directory / f"run-{draw}-{seed}.json"
        if not path.is_file():
            images = sets[draw]
            run_seed = derive_seed(root_seed, "student", student, draw, seed)
            count = len(images.images)
            schedule = plan(ipc=count // classes, classes=classes, images=count, **protocol)
            with building:  # initialisers draw from torch's global stream
                network = build_student(student, classes=classes, channels=channels, side=side, seed=run_seed)
            result = train_student(
                network, images.images, images.class_index, side=side,
                test_images=held_out.images, test_class_index=held_out.class_index, plan=schedule,
                augmentation=augmentation, mean=statistics[0], std=statistics[1],
                seed=run_seed, device=device, precision=precision, on_progress=stop_if_told,
            )  # fmt: skip
            record = {
                "draw": draw,
                "seed": seed,
                "last_top1": round(result.last_top1, 4),
                "best_top1": round(result.best_top1, 4),
                "curve": [[step, round(loss, 6), round(top1, 4)] for step, loss, top1 in result.curve],
                "confusion": result.confusion.tolist(),
            }
            files.write_json(path, record)
        return files.read_json(path)

    wanted = [(draw, seed) for draw in range(len(sets)) for seed in range(seeds)]
    if not side_by_side(student, side=side, device=device):
        return list(progress(run(*pair) for pair in wanted))
    runs: list[Future[dict[str, Any]]] = []
    with one_thread_each() as threads, ThreadPoolExecutor(min(threads, len(wanted))) as pool:
        try:
            runs += [pool.submit(run, *pair) for pair in wanted]
            for finished in progress(as_completed(runs)):
                finished.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return [finished.result() for finished in runs]


def side_by_side(student: str, *, side: int, device: torch.device) -> bool:
    """Whether the runs of a cell train at once, on one CPU thread each, instead of one after the other on all.

    Layers on small images gain little from more threads, and a score then does not depend on the number of cores.
    Large images fill the threads and the memory alone; timm's dropout draws from torch's global stream.
    """
    return device.type == "cpu" and side <= SMALL_SIDE and not student.startswith("timm:")


def summarise(runs: list[dict[str, Any]], names: list[str], **facts: Any) -> dict[str, Any]:
    """The content of a cell file: ``facts``, the runs, and their confusion matrices (actual x predicted) added up."""
    confusion = sum(torch.tensor(run["confusion"]) for run in runs)
    bare = [{key: value for key, value in run.items() if key != "confusion"} for run in runs]
    return {**facts, "classes": names, "confusion": confusion.tolist(), "runs": bare}
