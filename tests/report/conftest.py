"""A small synthetic project tree with invented numbers, as earlier stages would have left it."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ims3core.base import files
from ims3core.data import ClassRow, write_classes
from ims3core.data.distilled import SetKey, write_set_manifest
from ims3core.params import Params, parse
from ims3core.pipeline import profiles

CLASSES = ("ant", "bee", "cat")
PER_CLASS = 8
DIM = 5


def params_text(
    *,
    methods: str = "[random, herding, dit, ims3]",
    ipc: str = "[1, 4]",
    students: str = "[convnet, 'timm:resnet18']",
    draws: int = 2,
    seeds: int = 2,
    tsne_method: str = "ims3",
    protocols: str = "[steps]",
) -> str:
    """params.yaml of the synthetic tree: the default profile with a small grid."""
    root = Path(__file__).parents[2]
    profile = profiles.text(profiles.read(root, "digits"), "digits", [])
    head = profile[: profile.index("\neval:")]
    return f"""{head}
eval:
  {{methods: {methods}, ipc: {ipc}, students: {students}, draws: {draws}, seeds: {seeds}, protocols: {protocols}, split: test}}
coverage: {{k: 2, real_images: 100}}
report: {{grid_images: 2, gallery_images: 3, tsne_real: 4, tsne_method: {tsne_method}}}
compute: {{device: cpu, precision: fp32, compile: false, threads: 1, launch: null}}
"""


@pytest.fixture
def make_params() -> Callable[..., Params]:
    """Checked parameters of the synthetic tree; keyword arguments replace parts of the grid."""
    return lambda **changes: parse(params_text(**changes))


@pytest.fixture
def tree(tmp_path: Path, make_params: Callable[..., Params], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete synthetic tree for ``make_params()``, which is the current folder."""
    write_tree(tmp_path, make_params())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def grow() -> Callable[[Path, Params], None]:
    """Writes a synthetic tree for other parameters."""
    return write_tree


def write_tree(root: Path, params: Params) -> None:
    """Every input of the report for the grid of ``params``; all numbers are drawn from a fixed stream."""
    rng = np.random.default_rng(0)
    grid = params.eval
    for place, method in enumerate(grid.methods):
        for ipc in grid.ipc:
            for student, protocol in itertools.product(grid.students, grid.protocols):
                level = 60 + 4 * place + 6 * np.log(ipc)
                cell = cell_record(
                    rng, method=method, ipc=ipc, student=student, protocol=protocol, level=level,
                    draws=grid.draws, seeds=grid.seeds,
                )  # fmt: skip
                write_json(root / f"metrics/cells/{method}-{ipc}-{student}-{protocol}.json", cell)
        # The report opens one set per method; few files keep the tests fast on a slow disk.
        write_set(root, rng, method=method, ipc=max(grid.ipc), draw=0)
        write_json(root / f"metrics/selection/{method}.json", selection_record(rng, params, method))
    for student, protocol in itertools.product(grid.students, grid.protocols):
        cell = cell_record(
            rng, method="full", ipc="full", student=student, protocol=protocol, level=94, draws=1, seeds=grid.seeds
        )
        write_json(root / f"metrics/full_data/{student}-{protocol}.json", cell)
    for name, pool in params.pools.items():
        write_features(root / "data/features" / name, rng, draws=1 if pool.source == "real" else grid.draws)
    write_set(root, rng, method="dit", ipc=max(grid.ipc), draw=grid.draws - 1)
    table = [ClassRow(number, name, number, name) for number, name in enumerate(CLASSES)]
    write_classes(root / "data/real/classes.json", table)
    (root / "data/real/train").mkdir()
    files.write_manifest(root / "data/real/train", "split", images=24, storage="pixels", channels=1, side=6)
    generated = [name for name, row in params.pools.items() if row.source != "real"]
    rows = [("pool", name, "", 0, 0.5, 0.25, 1, 0.75, "", "") for name in generated]
    rows += [
        ("set", m, k, d, 0.5, "", 1, 0.75, 0.1 * d, 90)
        for m in grid.methods
        for k in grid.ipc
        for d in range(grid.draws)
    ]
    rows.append(("real", "validation", "", 0, 0.5, 0.25, 1, 0.75, 0.1, 90))
    with (root / "metrics/coverage.csv").open("w", newline="") as stream:
        names = ("kind", "name", "ipc", "draw", "precision", "recall", "density", "coverage", "boundary", "recognised")
        csv.writer(stream).writerows([names, *rows])
    write_curves(root, params)


def cell_record(
    rng: np.random.Generator, *, method: str, ipc: int | str, student: str, protocol: str, level: float, draws: int,
    seeds: int,
) -> dict:  # fmt: skip
    """One result cell; the confusion matrix counts ten decisions per class and run."""
    runs = []
    for draw in range(draws):
        shift = rng.normal()
        for seed in range(seeds):
            last = round(float(np.clip(level + shift + rng.normal(), 0, 99)), 4)
            curve = [[step, round(2.0 / step, 4), round(last * step / 40, 4)] for step in (10, 20, 30, 40)]
            runs.append(
                {"draw": draw, "seed": seed, "last_top1": last, "best_top1": round(last + 0.5, 4), "curve": curve}
            )
    decisions = 10 * len(runs)
    right = round(decisions * level / 100)
    confusion = np.full((len(CLASSES),) * 2, (decisions - right) // 2) + np.diag([right] * len(CLASSES))
    return {
        "method": method,
        "ipc": ipc,
        "student": student,
        "protocol": protocol,
        "split": "test",
        "precision": "fp32",
        "draws": draws,
        "seeds": seeds,
        "classes": list(CLASSES),
        "confusion": confusion.tolist(),
        "runs": runs,
    }


def selection_record(rng: np.random.Generator, params: Params, method: str) -> dict:
    """What select reports: both terms for every row, the objective and its bound where a search ran."""
    row = params.methods[method]
    cells: dict[str, list] = {}
    for ipc in params.eval.ipc:
        for draw in range(params.eval.draws):
            closeness, separation = (float(value) for value in -rng.uniform(1, 3, size=2))
            choice = {"draw": draw, "closeness": closeness, "separation": separation}
            if row.type == "s3":
                choice |= {
                    "objective": closeness + separation,
                    "bound": closeness + separation,
                    "bound_kind": "exhaustive",
                }
                choice |= {"gap": 0.0, "sweeps": 3, "engine": "matrix"}
            elif row.type == "herding":
                choice |= {"closeness": None, "separation": None}
            cells.setdefault(str(ipc), []).append(choice)
    deterministic = row.type in ("herding", "k_center")
    return {
        "method": method,
        "pool": row.pool,
        "selection": row.type,
        "deterministic": deterministic,
        "cells": cells,
    }


def write_set(root: Path, rng: np.random.Generator, *, method: str, ipc: int, draw: int) -> None:
    """One distilled set of noisy 6 x 6 images."""
    folder = root / f"data/distilled/{method}/ipc-{ipc}/draw-{draw}"
    images = []
    for class_index, name in enumerate(CLASSES):
        for index in range(ipc):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, size=(6, 6), dtype=np.uint8)).save(picture, format="PNG")
            file = f"train/{name}/draw{draw}-{index:05d}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(picture.getvalue())
            digest = hashlib.sha256(picture.getvalue()).hexdigest()
            entry = {"file": file, "class": name, "class_index": class_index, "index": index}
            images.append(entry | {"seed": None, "group": None, "sha256": digest})
    write_set_manifest(folder, SetKey(method, ipc, draw), images)


def write_features(directory: Path, rng: np.random.Generator, *, draws: int) -> None:
    """Unit features around one direction per class, in shuffled order."""
    import torch

    places = np.array([(d, c, i) for d in range(draws) for c in range(len(CLASSES)) for i in range(PER_CLASS)])
    places = places[rng.permutation(len(places))]
    features = np.eye(DIM)[places[:, 1]] + 0.2 * rng.normal(size=(len(places), DIM))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    columns = {"ipc": np.zeros(len(places), np.int64)}
    columns |= {name: np.ascontiguousarray(places[:, k]) for k, name in enumerate(("draw", "class_index", "index"))}
    tensors = {name: torch.from_numpy(values) for name, values in {"features": features, **columns}.items()}
    files.write_tensors(directory / "features.safetensors", tensors)
    files.write_manifest(directory, "features")


def write_curves(root: Path, params: Params) -> None:
    """Loss curves of the generator and of every adaptation that trains; gradient norms at every third step only."""
    trained = [name for name, row in params.adaptations.items() if row.type != "none"]
    for path in [root / "data/generator/curve.csv", *(root / f"data/adapted/{name}/curve.csv" for name in trained)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["step", "diffusion", "grad_norm_diffusion"])
            writer.writerows([step, 1 / (1 + step), 0.5 if step % 3 == 0 else None] for step in range(12))


def write_json(path: Path, value: dict) -> None:
    """Writes ``value`` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
