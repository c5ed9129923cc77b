"""Refined real images under a published protocol: the score after so many iterations, beside the published numbers.

    python benchmarks/yardstick.py FOLDER OUT --row dm --ipc 10 --at 0 250 500 1000 \\
        --set '{optimiser: sgd, lr: 1.0, real_batch: 256}'
    python benchmarks/yardstick.py FOLDER OUT --row ims3_plus --ipc 1 10 --at 500 --set '{factor: 2}'
    python benchmarks/yardstick.py FOLDER OUT --row idc --ipc 1 --at 0 500 1000 --set '{inner: 100, lr: 0.0049}'

FOLDER holds params.yaml of a profile and its real images (`ims3 use cifar10 && ims3 prepare`). A set starts from real
images, drawn as the row `random` draws them, and not from the generator's; it is refined by the row's entry and scored
by students of the protocol at the last epoch. Sets and scores are kept in OUT under what decides them, so the same
command goes on where it was stopped; several processes may share an OUT if they make different sets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from calibration import drawn_set, spec_of, trained

from ims3core import data
from ims3core.axes.refinements import Matching, Start
from ims3core.axes.refinements.distribution_matching import DistributionMatching
from ims3core.axes.refinements.gradient_matching import GradientMatching
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.data.formation import first_mosaics, formed_set
from ims3core.params import Params, load
from ims3core.report import published
from ims3core.students.cell import CellSpec
from ims3core.students.plans import PoolNetwork
from ims3core.students.settings import Augment


@dataclass(frozen=True)
class Project:
    """A folder's parameters and real images, and how students are scored there."""

    params: Params
    train: data.ImageSet
    held_out: data.ImageSet
    spec: CellSpec
    labels: torch.Tensor
    names: tuple[str, ...]
    seen_statistics: tuple[list[float], list[float]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", default="ims3_plus", help="of refinements, a matching of distributions or gradients")
    parser.add_argument("--set", type=yaml.safe_load, default={}, help="keys of the row, as in `set:`")
    parser.add_argument(
        "--augment", choices=["row", "protocol"], default="row", help="whose augmentation images are refined under"
    )
    parser.add_argument("--at", type=int, nargs="+", required=True, help="iterations after which a set is scored")
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--draws", type=int, nargs="+", default=[0], help="numbers of the sets")
    parser.add_argument("--seeds", type=int, default=1, help="students of a set")
    parser.add_argument("--protocol", default="dsa")
    parser.add_argument("--student", default="convnet", help="as in eval.students")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--threads", type=int, default=0, help="of the refinement; 0: all cores")
    asked = parser.parse_args()
    project = read(asked)
    entry = project.params.refinement(asked.row)
    if not isinstance(entry, Matching):
        sys.exit(f"--row {asked.row}: found {entry.entry_name()}, wanted a matching of distributions or gradients")
    params = project.params
    augment = params.augmentation(asked.protocol) if asked.augment == "protocol" else None
    augment = augment or params.refining_augmentation(asked.row)
    asked.out.mkdir(parents=True, exist_ok=True)
    shared: dict[Any, Any] = {}
    for ipc in asked.ipc:
        changed = lasting(entry.overridden(asked.set, asked.row), max(asked.at), asked.row)
        decides = changed.model_dump_json(exclude={"iterations", "outer"}) + augment.model_dump_json()
        key = digest(decides)
        scores: dict[int, list[float]] = {at: [] for at in asked.at}
        for draw in asked.draws:
            home = asked.out / f"{asked.row}-{key}-ipc-{ipc}-draw-{draw}"
            refined(changed, augment, project, (ipc, draw), asked.at, home, shared)
            for at in asked.at:
                scores[at] += scored(asked, project, changed.factor, home, draw, at)
        for at, found in scores.items():
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            print(f"{asked.row}, IPC {ipc}, {at} iterations: {statistics.fmean(found):.1f} ± {spread:.1f}", flush=True)
        for method in ("random", "dm", "dsa", "idc", "ncfm"):
            text, _ = published.find(
                dataset=published.dataset(project.params.data), resolution=project.spec.side,
                network=project.spec.network, ipc=ipc, method=method, protocol=asked.protocol,
            )  # fmt: skip
            if text:
                print(f"    published: {method} {text}")


def read(asked: argparse.Namespace) -> Project:
    """What both parts look at."""
    params, real = load(asked.folder / "params.yaml"), asked.folder / "data/real"
    rows = data.read_classes(real / "classes.json")
    params = params.model_copy(update={"compute": params.compute.model_copy(update={"threads": asked.threads})})
    return Project(
        params, data.read_split(real / "train"), data.read_split(real / asked.split),
        spec_of(params, real, asked.student, asked.protocol), torch.tensor([row.generator_label for row in rows]),
        tuple(row.name for row in rows), data.read_statistics(real / data.STATISTICS),
    )  # fmt: skip


def lasting(entry: Matching, iterations: int, row: str) -> Matching:
    """The entry with so many iterations, of a matching of gradients whole outer ones."""
    if isinstance(entry, DistributionMatching):
        return entry.overridden({"iterations": {1: iterations}}, row)
    assert isinstance(entry, GradientMatching)
    if iterations % entry.inner or not iterations:
        sys.exit(f"--at {iterations}: found no multiple of inner: {entry.inner}")
    return entry.overridden({"outer": iterations // entry.inner}, row)


def refined(
    entry: Matching, augment: Augment, project: Project, of: tuple[int, int], at: list[int], home: Path,
    shared: dict[Any, Any],
) -> None:  # fmt: skip
    """Makes the images after so many iterations in ``home``, all in one go, unless they are there.

    Args:
        of: IPC, and number of the set.
    """
    if all(images_at(home, n).exists() for n in at):
        return
    home.mkdir(exist_ok=True)
    files.write_json(home / "entry.json", {**entry.model_dump(mode="json"), "augment": augment.model_dump(mode="json")})
    root, (ipc, draw) = project.params.seed, of
    seed = derive_seed(root, "refine", draw, ipc)
    chosen = drawn_set(project.train, len(project.names), ipc, root, draw)
    if entry.factor > 1:
        chosen = first_mosaics(chosen, project.train, entry.factor, seed)
    of_networks = {"network", "options", "networks"}  # matchings of gradients share none
    same = entry.model_dump_json(include=of_networks) + augment.model_dump_json()
    watched = Watched([0, *at], home, max(at), networks=digest(same))  # after 0: what it started from
    start = Start(
        chosen=chosen, latents=None, real=project.train, statistics=project.seen_statistics, augment=augment, seed=seed,
        machine=compute.machine(**project.params.compute.model_dump()), labels=project.labels, names=project.names,
        row_seed=derive_seed(root, "refine"), shared=shared, progress=watched.over, kept=watched.kept,
        shown=watched.shown,
    )  # fmt: skip
    watched.keep(max(at), entry.refine(start))


class Watched:
    """Keeps what a refinement has reached on its way."""

    def __init__(self, at: list[int], home: Path, last: int, networks: str) -> None:
        self.networks = networks
        self.at, self.home, self.last, self.began = set(at), home, last, time.perf_counter()
        self.images: Callable[[], torch.Tensor] | None = None
        self.training = False

    def shown(self, images: Callable[[], torch.Tensor]) -> None:
        """Is told what returns the images."""
        self.images = images

    def kept(self, which: PoolNetwork, train: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The weights of a network, which are those of other settings of the row, too."""
        path = self.home.with_name(f"{self.networks}-{which.file}")
        if not path.exists():
            print(f"{path.name}: being trained", flush=True)
            self.training = True
            files.write_tensors(path, train())
            self.training = False
        return files.read_tensors(path)

    def over(self, iterations: Iterable[int]) -> Iterator[int]:
        """The iterations, between which images are kept; those of a network's training are nobody's."""
        for n in iterations:
            if n in self.at and not self.training:
                assert self.images is not None
                self.keep(n, self.images())
            elif n % 50 == 0 and not self.training:
                print(f"{self.home.name}: {n}/{self.last}, {time.perf_counter() - self.began:.0f} s", flush=True)
            yield n

    def keep(self, n: int, images: torch.Tensor) -> None:
        """Writes them whole."""
        torch.save(images.cpu(), images_at(self.home, n).with_suffix(".part"))
        images_at(self.home, n).with_suffix(".part").replace(images_at(self.home, n))
        print(f"{self.home.name}: {n}/{self.last}, {time.perf_counter() - self.began:.0f} s", flush=True)


def digest(text: str) -> str:
    """Twelve hexadecimal digits of what decides a file."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def images_at(home: Path, n: int) -> Path:
    """Where the images after ``n`` iterations are."""
    return home / f"{n}.pt"


def scored(asked: argparse.Namespace, project: Project, factor: int, home: Path, draw: int, at: int) -> list[float]:
    """The last-epoch accuracies of a set's students, percent; read where they are known."""
    images = torch.load(images_at(home, at))
    classes = len(project.names)
    labels = torch.arange(classes).repeat_interleave(len(images) // classes)
    whole = formed_set(data.ImageSet(images, labels), factor)
    found = []
    for seed in range(asked.seeds):
        path = home / f"{at}-{asked.protocol}-{asked.student}-{asked.split}-{seed}.json"
        if not path.exists():
            began = time.perf_counter()
            run = trained(project.spec, whole, project.held_out, draw=draw, seed=seed, tiles=factor**2)
            files.write_json(path, {**run, "seconds": time.perf_counter() - began})
        found.append(json.loads(path.read_text())["last_top1"])
        print(f"{home.name}, {at} iterations, {asked.split}, seed {seed}: {found[-1]:.2f}", flush=True)
    return found


if __name__ == "__main__":
    main()
