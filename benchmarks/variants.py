"""Settings against each other on the validation split, paired over drawn sets.

    python benchmarks/variants.py FOLDER --rows dit s3 [--draws 6] [--seeds 1] [--device cpu] [--against dit]
        --variant "pools.dit.sampler=ddpm ddpm.steps=50" --variant "dpm_solver.steps=6" --variant "dpm_solver.steps=8"

A variant is params.yaml with some keys changed, values with blanks in quotes. Needs `dvc repro latents centroids labels
features@real`; fine-tunes, prepares the guide, samples, selects, refines and scores in FOLDER, pools once for all
variants that agree in them, and prints for each row and IPC the mean accuracy of the last step and its standard error,
and the difference to the first variant with its 95 % interval: draw by draw, from the same noise. With --against it is
the difference to that row under the first variant. Run again with more variants, it adds theirs.
Nothing here reads the test split.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shlex
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import settings
import yaml

from ims3core.params import parse
from ims3core.pipeline import workspace
from ims3core.report.statistics import interval

PARTS = (
    "real", "generator", "latents", "encoder", "centroids", "teacher", "labels", "candidates/real", "features/real",
)  # fmt: skip
POOL_SECTIONS = ("seed", "candidates", "adaptations", "finetune", "ema", "guides", "features")
UPSTREAM = tuple(f"data/{part}" for part in PARTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", default=["dit", "s3"])
    parser.add_argument("--variant", action="append", required=True, help="key=value key=value ...")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="variants at once; they share the cores")
    parser.add_argument("--against", help="a row that every row is compared with")
    parser.add_argument("--device", default="cpu", help="where the generator runs; students train on the processor")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    tree = yaml.safe_load((settings.ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["eval"] |= {"draws": arguments.draws, "seeds": arguments.seeds, "split": "validation"}
    tree["compute"] |= {"device": "cpu", "threads": max(1, cores // arguments.jobs)}
    task = partial(score, arguments.folder.resolve(), tree, arguments.device)
    against, wanted = arguments.against, [(arguments.rows, name) for name in arguments.variant]
    if against:
        wanted.insert(0, ([against], arguments.variant[0]))
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as executor:
        reference = None
        for (_, name), found in zip(wanted, executor.map(task, *zip(*wanted, strict=True)), strict=True):
            reference = reference or found
            print(name)
            for (row, ipc), values in found.items():
                other = reference[against or row, ipc]
                mean, half = interval([a - b for a, b in zip(values, other, strict=True)])
                said = f"  {row:8s} IPC {ipc:3d}: {settings.summary(values)}, to {against or 'the first'} {mean:+.2f} "
                print(f"{said}[{mean - half:+.2f}, {mean + half:+.2f}]", flush=True)


def changed(tree: dict[str, Any], variant: str) -> dict[str, Any]:
    """A copy of ``tree`` with the keys of ``variant`` changed."""
    tree = deepcopy(tree)
    for change in shlex.split(variant):
        key, value = change.split("=", 1)
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section[part]
        if last not in section and path[-1:] != ["set"]:
            raise SystemExit(f"{key}: no such key in params.yaml")
        section[last] = yaml.safe_load(value)
    return tree


def score(folder: Path, tree: dict, device: str, rows: list[str], variant: str) -> dict[tuple, list[float]]:
    """Accuracy in percent of every draw, by row and IPC."""
    place = folder / digest(variant)
    tree = changed(tree, variant)
    grid, params = tree["eval"], parse(yaml.safe_dump(tree))
    settings.link(settings.ROOT, place, UPSTREAM)
    student, protocol = grid["students"][0], grid["protocols"][0]
    found = {}
    for row in rows:
        start, refined = params.lineage(row)
        name = params.methods[start].pool
        if f"features/{name}" not in PARTS:
            pool(folder, place, tree | {"compute": tree["compute"] | {"device": device}}, name)
        cells = {ipc: place / f"metrics/cells/{row}-{ipc}-{student}-{protocol}.json" for ipc in grid["ipc"]}
        if not all(path.is_file() for path in cells.values()):
            sets = ("select", start), *(("refine", later) for later in refined)
            settings.run(place, tree, *sets, *(("students", row, ipc, student, protocol) for ipc in cells))
        found |= {(row, ipc): settings.draws_of(path) for ipc, path in cells.items()}
    return found


def pool(folder: Path, place: Path, tree: dict, name: str) -> None:
    """Links the pool ``name`` and its features into ``place``; made once for all variants that agree in it."""
    row = tree["pools"][name]
    adaptation, guide = tree["adaptations"][row["adaptation"]], tree["guides"][row["guide"]]
    entries = (row["source"], adaptation["type"], guide["type"], row["sampler"])
    decides = [row, *(tree.get(key) for key in (*POOL_SECTIONS, *entries))]
    home = folder / "pools" / digest(yaml.safe_dump([decides, tree["eval"]["draws"]]))
    with workspace.exclusive(home / "lock", name):
        settings.link(settings.ROOT, home, UPSTREAM)
        adapted = dict.fromkeys((row["adaptation"], guide["adaptation"]))
        for stage, made in [*(("finetune", f"adapted/{one}") for one in adapted), ("guides", f"guides/{row['guide']}")]:
            if not (home / "data" / made).is_dir():
                settings.run(home, tree, (stage, Path(made).name))
        if not (home / "data/features" / name).is_dir():
            settings.run(home, tree, ("candidates", name), ("features", name))
    settings.link(home, place, (f"data/candidates/{name}", f"data/features/{name}"))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
