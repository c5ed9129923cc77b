"""How few network calls give the accuracy of 50 ancestral steps with full guidance: chosen on the validation split.

    python benchmarks/solvers.py FOLDER [--steps 8 10 15] [--interval 0,1 0.1,0.7] [--spacing time] [--draws 6]

Needs `dvc repro centroids guides labels`. Scores plain DiT and S3 on pools of `ddpm` with 50 steps and of `dpm_solver`
with every combination of the values, several drawn sets each from the same noise, and prints for each: network calls
per image, mean accuracy of the last step, and the difference to 50 steps with its 95 % interval, paired over draws.
Run again with more values, it adds their rows. Nothing here reads the test split.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import settings
import yaml

from ims3core.report.statistics import interval as t_interval
from ims3core.shell import axes

METHODS = ("dit", "s3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 10, 15])
    parser.add_argument("--interval", nargs="+", default=["0,1"], help="low,high")
    parser.add_argument("--spacing", nargs="+", default=["time"], choices=["time", "log_snr"])
    parser.add_argument("--draws", type=int, default=6)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="variants at once; they share the cores")
    parser.add_argument("--device", default="cpu", help="where pools are made; students train on the processor")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    tree = yaml.safe_load((settings.ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["eval"] |= {"draws": arguments.draws, "seeds": 1, "split": "validation"}
    tree["compute"] |= {"device": "cpu", "threads": max(1, cores // arguments.jobs)}
    shared = {key: tree[tree["pools"]["dit"]["sampler"]][key] for key in ("guidance", "guided_channels")}
    variants: dict[str, tuple[str, dict[str, Any]]] = {"ddpm-50": ("ddpm", shared | {"steps": 50})}
    for steps, interval, spacing in itertools.product(arguments.steps, arguments.interval, arguments.spacing):
        keys = {"steps": steps, "spacing": spacing, "interval": [float(share) for share in interval.split(",")]}
        variants[f"dpm_solver-{steps}-{interval}-{spacing}"] = ("dpm_solver", shared | keys)

    folder = arguments.folder.resolve()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as executor:
        reference = None
        for name, found in zip(
            variants, executor.map(partial(score, folder, tree, arguments.device), variants.items()), strict=True
        ):
            reference = reference or found
            sampler, section = variants[name]
            calls = axes.load("samplers", sampler, "here").calls(**section)
            print(f"{name}: {calls} calls per image")
            for (method, ipc), values in found.items():
                apart = [a - b for a, b in zip(values, reference[method, ipc], strict=True)]
                mean, half = t_interval(apart)
                print(
                    f"  {method:4s} IPC {ipc:3d}: {settings.summary(values)}, to ddpm-50 {mean:+.2f} "
                    f"[{mean - half:+.2f}, {mean + half:+.2f}]",
                    flush=True,
                )


def score(
    folder: Path, tree: dict, device: str, variant: tuple[str, tuple[str, dict[str, Any]]]
) -> dict[tuple, list[float]]:
    """Accuracy in percent of every draw, by method and IPC."""
    name, (sampler, section) = variant
    place, grid = folder / name, tree["eval"]
    tree["pools"]["dit"]["sampler"], tree[sampler] = sampler, section
    student, protocol = grid["students"][0], grid["protocols"][0]
    settings.link(settings.ROOT, place, settings.UPSTREAM)
    if not (place / "data/features/dit").is_dir():
        there = tree | {"compute": tree["compute"] | {"device": device}}
        settings.run(place, there, ("candidates", "dit"), ("features", "dit"))
    found = {}
    for method in METHODS:
        cells = {ipc: place / f"metrics/cells/{method}-{ipc}-{student}-{protocol}.json" for ipc in grid["ipc"]}
        if not all(path.is_file() for path in cells.values()):
            settings.run(
                place, tree, ("select", method), *(("students", method, ipc, student, protocol) for ipc in cells)
            )
        found |= {(method, ipc): settings.draws_of(path) for ipc, path in cells.items()}
    return found


if __name__ == "__main__":
    main()
