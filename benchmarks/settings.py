"""Chooses the settings that all rows share, on the validation split (design: DiT and S3 decide, the others follow).

    python benchmarks/settings.py FOLDER [--guidance 1 1.5 2] [--groups 5 10] [--alpha 0.4] [--draws 6]

Needs `dvc repro centroids guides labels`. Makes one pool per guidance scale in FOLDER, then scores plain DiT and S3 on
the validation images for every combination, several drawn sets each; run again with more values, it adds their rows.
Prints the mean accuracy of the last step and its standard error over draws, and draw by draw the gain over plain DiT
and over the guidance before. Nothing here reads the test split.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import yaml

from ims3core.base import files
from ims3core.params import parse
from ims3core.pipeline import harness

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("real", "generator", "adapted", "guides", "encoder", "features/real", "centroids", "teacher", "labels")
UPSTREAM = tuple(f"data/{part}" for part in PARTS)


class Setting(NamedTuple):
    """One row of the table; plain DiT knows neither groups nor alpha."""

    method: str
    guidance: float
    groups: int = 0
    alpha: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.4])
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="student steps; the profile's without it")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if arguments.draws < 2:
        parser.error("--draws: wanted at least 2, for a standard error")
    logging.disable(logging.INFO)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["eval"] |= {"draws": arguments.draws, "seeds": arguments.seeds, "split": "validation"}
    tree["candidates"]["per_class"] = max(arguments.groups) * max(tree["eval"]["ipc"])
    tree["s3"]["groups"] = min(arguments.groups)
    tree["compute"]["threads"] = 1
    if arguments.steps:
        tree["protocols"][tree["eval"]["protocols"][0]]["steps"] = arguments.steps

    folder = arguments.folder.resolve()
    rows = [Setting("dit", guidance) for guidance in arguments.guidance]
    rows += itertools.starmap(
        partial(Setting, "s3"), itertools.product(arguments.guidance, arguments.groups, arguments.alpha)
    )
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as executor:
        list(executor.map(partial(make_pool, folder, tree), arguments.guidance))
        scores: dict[Setting, dict[int, list[float]]] = {}
        for row, found in zip(rows, executor.map(partial(score, folder, tree), rows), strict=True):
            scores[row] = found
            for ipc, values in found.items():
                text = f"{' '.join(map(str, row))}  IPC {ipc}: {summary(values)}"
                if row.groups:
                    text += f", over DiT {gain(values, scores[Setting('dit', row.guidance)][ipc])}"
                if (place := arguments.guidance.index(row.guidance)) > 0:
                    before = row._replace(guidance=arguments.guidance[place - 1])
                    text += f", over guidance {before.guidance} {gain(values, scores[before][ipc])}"
                print(text, flush=True)


def summary(values: list[float]) -> str:
    """Mean and standard error."""
    return f"{statistics.mean(values):6.2f} +- {statistics.stdev(values) / len(values) ** 0.5:4.2f}"


def gain(values: list[float], baseline: list[float]) -> str:
    """Mean and standard error of the difference, draw by draw."""
    return summary([value - base for value, base in zip(values, baseline, strict=True)])


def make_pool(folder: Path, tree: dict, guidance: float) -> None:
    """Candidates of plain DiT and their features, for one guidance scale."""
    place = folder / f"guidance-{guidance}"
    if (place / "data/features/dit").is_dir():
        return
    link(ROOT, place, UPSTREAM)
    tree[tree["pools"]["dit"]["sampler"]]["guidance"] = guidance
    run(place, tree, ("candidates", "dit"), ("features", "dit"))


def score(folder: Path, tree: dict, setting: Setting) -> dict[int, list[float]]:
    """Per IPC, the accuracy in percent of each draw, averaged over student seeds."""
    place, method, grid = folder / "-".join(map(str, setting)), setting.method, tree["eval"]
    if setting.groups:
        tree["s3"] |= {"alpha": setting.alpha, "groups": setting.groups}
    student, protocol = grid["students"][0], grid["protocols"][0]
    cells = {ipc: place / f"metrics/cells/{method}-{ipc}-{student}-{protocol}.json" for ipc in grid["ipc"]}
    if not all(path.is_file() for path in cells.values()):
        link(ROOT, place, UPSTREAM)
        link(folder / f"guidance-{setting.guidance}", place, ("data/candidates/dit", "data/features/dit"))
        run(place, tree, ("select", method), *(("students", method, ipc, student, protocol) for ipc in cells))
    return {ipc: draws_of(path) for ipc, path in cells.items()}


def draws_of(path: Path) -> list[float]:
    """The accuracy in percent of each draw of a cell, averaged over student seeds."""
    seeds: dict[int, list[float]] = {}
    for run in files.read_json(path)["runs"]:
        seeds.setdefault(run["draw"], []).append(run["last_top1"])
    return [statistics.mean(seeds[draw]) for draw in sorted(seeds)]


def run(folder: Path, tree: dict, *stages: tuple) -> None:
    """Stages of the pipeline in ``folder``, one after the other, in this process."""
    params = parse(yaml.safe_dump(tree))
    for stage, *arguments in stages:
        harness.run(stage, params, folder, arguments)


def link(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Makes parts of ``source`` visible in ``target``."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if not (target / name).is_symlink():
            (target / name).symlink_to(source / name)


if __name__ == "__main__":
    main()
