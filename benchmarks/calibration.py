"""Do our students score random real images as the field's do, under a published protocol?

    python benchmarks/calibration.py FOLDER [--protocol dc] [--student convnet] [--ipc 1 10] [--sets 5]
    python benchmarks/calibration.py FOLDER --all-images [--protocol dc]     as many epochs as protocols.dc.full_epochs

FOLDER holds params.yaml of a profile and its real images (`ims3 use cifar10 && ims3 prepare`). Every set is drawn as
the row `random` draws it and trained on once; the score is that of the last epoch on the test split. Prints a line per
set, then mean and standard deviation over the sets beside the published number of Random.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ims3core import data
from ims3core.axes.selections.random import random_subset
from ims3core.base import compute
from ims3core.base.seeds import generator
from ims3core.classifiers.teacher import read_teacher
from ims3core.params import Params, load
from ims3core.report import published
from ims3core.students.cell import CellSpec, runs_on_one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--protocol", default="dc")
    parser.add_argument("--student", default="convnet", help="as in eval.students")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--all-images", action="store_true", help="one student on the whole training split")
    arguments = parser.parse_args()
    params, real = load(arguments.folder / "params.yaml"), arguments.folder / "data/real"
    train, held_out = data.read_split(real / "train"), data.read_split(real / "test")
    names, protocol = data.read_classes(real / "classes.json"), arguments.protocol
    spec = spec_of(params, real, arguments.student, protocol)
    if arguments.all_images:
        whole = replace(spec, protocol=spec.protocol.on_all_data)
        run = whole.run(train, held_out, draw=0, seed=0, on_progress=_every_hundred)
        for step, loss, top1 in run["curve"]:
            print(f"step {step}: mean loss since the last point {loss:.4f}, {top1:.2f}")
        print(f"{len(train.images)} images, {whole.protocol.epochs} epochs: {run['last_top1']:.2f}")
        return
    for ipc in arguments.ipc:
        scores = []
        for draw in range(arguments.sets):
            images = drawn_set(train, len(names), ipc, params.seed, draw)
            scores.append(trained(spec, images, held_out, draw=draw, seed=0)["last_top1"])
            print(f"IPC {ipc}, set {draw}: {scores[-1]:.2f}", flush=True)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        printed, _ = published.find(
            dataset=published.dataset(params.data), resolution=params.data.side, network=spec.network, ipc=ipc,
            method="random", protocol=protocol,
        )  # fmt: skip
        print(f"IPC {ipc}: {statistics.fmean(scores):.1f} ± {spread:.1f}, published {printed or 'none'}", flush=True)


def trained(spec: CellSpec, *sets: data.ImageSet, **task: int) -> dict[str, Any]:
    """A student as the stage trains it: small images on one thread."""
    alone = runs_on_one_thread(spec.network, side=spec.side, device=spec.machine.device)
    with compute.one_thread_each() if alone else nullcontext():
        return spec.run(*sets, **task)


def _every_hundred(step: int) -> None:
    if step % 100 == 0:
        print(f"step {step}", flush=True)


def spec_of(params: Params, real: Path, student: str, protocol: str) -> CellSpec:
    """How students are trained and scored under a protocol of a profile; soft labels need `dvc repro labels`."""
    rules = params.protocols[protocol]
    return CellSpec(
        student, params.network(student), side=params.data.side,
        classes=len(data.read_classes(real / "classes.json")), statistics=data.read_statistics(real / data.STATISTICS),
        protocol=rules, augment=params.augmentation(protocol),
        options=params.network_options(student), machine=compute.machine(**params.compute.model_dump()),
        root_seed=params.seed, protocol_name=protocol,
        teacher=read_teacher(real.parent / "labels" / protocol) if rules.labels == "teacher" else None,
    )  # fmt: skip


def drawn_set(train: data.ImageSet, classes: int, ipc: int, seed: int, draw: int) -> data.ImageSet:
    """A set of the row ``random``: ``ipc`` training images of each class."""
    rows = []
    for c in range(classes):
        of_class = (train.class_index == c).nonzero().flatten()
        rows.append(of_class[random_subset(len(of_class), ipc, generator(seed, "random-subset", draw, c))])
    chosen = torch.cat(rows)
    return data.ImageSet(train.images[chosen], train.class_index[chosen])


if __name__ == "__main__":
    main()
