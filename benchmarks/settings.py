"""Chooses the settings of the digits without touching their test images: several splits of all the other images.

    python benchmarks/settings.py FOLDER [--splits 4] [--jobs 2]

Needs `dvc repro prepare`. Every split trains its own generator and encoder on a part of the training and validation
images and scores students on the rest, for guidance scales (plain DiT and S3 at the profile's values) and for values
of S3 at the profile's guidance. Prints mean and standard error over splits; the settings of all rows follow from
plain DiT and S3 alone (README, "How the settings were chosen").
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml

from ims3core import data, files
from ims3core.params import Params

ROOT = Path(__file__).resolve().parent.parent
GUIDANCE = (1.0, 1.5, 2.0)
ALPHA = (0.2, 0.4, 0.8)
GROUPS = (5, 10)
UPSTREAM = ("data/real", "data/generator", "data/adapted", "data/encoder", "data/centroids")
Setting = tuple[str, float, float, int]  # method, guidance, alpha, groups


def settings(tree: dict) -> list[Setting]:
    """Guidance for DiT and S3, then alpha and groups of S3."""
    g0, a0, m0 = tree["candidates"]["guidance"], tree["s3"]["alpha"], tree["s3"]["groups"]
    rows = [("dit", g, a0, m0) for g in GUIDANCE] + [("s3", g, a0, m0) for g in GUIDANCE]
    return rows + [("s3", g0, a, m) for a, m in itertools.product(ALPHA, GROUPS) if (a, m) != (a0, m0)]


def run(folder: Path, tree: dict, *stages: tuple) -> None:
    """Stages of the pipeline in ``folder``, one after the other, in this process."""
    params = Params.model_validate(tree)
    for module, *arguments in stages:
        importlib.import_module(f"stages.{module}").run(params, folder, *arguments)


def prepare_split(folder: Path, tree: dict, split: int) -> None:
    """Generator, encoder, and one pool per guidance scale."""
    place = folder / f"split-{split}"
    run(place, tree, ("prepare",), ("generator",), ("encoder",), ("latents",), ("finetune", "none"),
        ("candidates", "real"), ("features", "real"), ("centroids", "real"))  # fmt: skip
    for guidance in GUIDANCE:
        pool = place / f"guidance-{guidance}"
        link(place, pool, UPSTREAM)
        tree["candidates"]["guidance"] = guidance
        run(pool, tree, ("candidates", "dit"), ("features", "dit"))


def link(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Makes parts of ``source`` visible in ``target``."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(source / name)


def score(folder: Path, tree: dict, split: int, setting: Setting) -> dict[int, float]:
    """Mean accuracy (percent) of the students of one setting, per IPC."""
    method, guidance, alpha, groups = setting
    split_folder = folder / f"split-{split}"
    place = split_folder / f"{method}-{guidance}-{alpha}-{groups}"
    link(split_folder, place, UPSTREAM)
    link(split_folder / f"guidance-{guidance}", place, ("data/candidates/dit", "data/features/dit"))
    tree["s3"] |= {"alpha": alpha, "groups": groups}
    tree["compute"] |= {"device": "cpu", "threads": 1}
    run(place, tree, ("select", method), *(("students", method, ipc, "convnet") for ipc in tree["eval"]["ipc"]))
    cells = {ipc: files.read_json(place / f"metrics/cells/{method}-{ipc}-convnet.json") for ipc in tree["eval"]["ipc"]}
    return {ipc: statistics.mean(run["last_top1"] for run in cell["runs"]) for ipc, cell in cells.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps of generator and students, to try this script")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    logging.disable(logging.INFO)
    parts = [data.read_split(ROOT / "data/real" / name) for name in ("train", "validation")]
    images = np.concatenate([np.asarray(part.images) for part in parts]).transpose(0, 2, 3, 1)
    labels = np.concatenate([np.asarray(part.class_index) for part in parts])
    np.savez(folder / "images.npz", images=images, labels=labels)
    tree = yaml.safe_load((ROOT / "profiles/digits.yaml").read_text(encoding="utf-8"))
    tree["data"] |= {"source": "npz", "path": str(folder / "images.npz"), "validation_fraction": 0.05}
    tree["data"]["test_fraction"] = 0.25
    tree["candidates"]["per_class"] = max(GROUPS) * max(tree["eval"]["ipc"])
    tree["eval"] |= {"draws": arguments.draws, "seeds": arguments.seeds}
    tree["compute"]["threads"] = max(1, len(os.sched_getaffinity(0)) // arguments.splits)
    if arguments.steps:
        tree["generator"]["steps"] = tree["protocols"]["steps"]["steps"] = arguments.steps

    def with_seed(split: int) -> dict:
        return tree | {"seed": 1 + split}

    with ProcessPoolExecutor(min(arguments.jobs, arguments.splits), mp_context=get_context("spawn")) as pool:
        work = [pool.submit(prepare_split, folder, with_seed(n), n) for n in range(arguments.splits)]
        for done in as_completed(work):
            done.result()
            print("a split is ready", flush=True)
    rows = settings(tree)
    found: dict[Setting, list[dict[int, float]]] = {row: [] for row in rows}
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        work = {pool.submit(score, folder, with_seed(n), n, row): row for row in rows for n in range(arguments.splits)}
        for done in as_completed(work):
            row = work[done]
            found[row].append(done.result())
            print(*row, done.result(), flush=True)
    print("method guidance alpha groups: mean +- standard error over splits, per IPC")
    for row, scores in found.items():
        cells = []
        for ipc in tree["eval"]["ipc"]:
            values = [score[ipc] for score in scores]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):6.2f} +- {error:4.2f}")
        print(*(f"{value!s:>6}" for value in row), "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
