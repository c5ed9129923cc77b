"""Reads what earlier stages wrote for the report and refuses whatever is missing, truncated or stale.

Every function takes the project's root and names; paths in messages are relative to that root.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from ims3core.shell.errors import ArtifactError

FULL = "full"  # the method and IPC of the upper bound: every real training image
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Checked = TypeVar("Checked", bound=BaseModel)


class _Record(BaseModel):
    """Strict about the keys read here, indifferent to others."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Run(_Record):
    """One training of one student: ``curve`` holds (step, training loss, top-1 in percent)."""

    draw: Index
    seed: Index
    last_top1: Percent
    best_top1: Percent
    curve: list[tuple[Index, FiniteFloat, Percent]]


class Cell(_Record):
    """All runs of one method, IPC and student; ``confusion[actual][predicted]`` is summed over the runs."""

    method: str
    ipc: Count | str
    student: str
    protocol: str
    split: str
    precision: str
    classes: Annotated[list[str], Field(min_length=2)]
    confusion: list[list[Index]]
    runs: Annotated[list[Run], Field(min_length=1)]

    @model_validator(mode="after")
    def _square(self) -> Cell:
        if {len(self.confusion), *map(len, self.confusion)} != {len(self.classes)}:
            raise ValueError(f"confusion: not a square of the {len(self.classes)} classes")
        return self


class Choice(_Record):
    """One selected set: the two terms of Eq. 10, unweighted, and where a search ran its objective and bound."""

    draw: Index
    objective: FiniteFloat | None = None
    closeness: FiniteFloat | None = None
    separation: FiniteFloat | None = None
    bound: FiniteFloat | None = None
    bound_kind: str | None = None
    gap: FiniteFloat | None = None
    sweeps: Index | None = None


class Selection(_Record):
    """What one method selected, per IPC (as text) and draw."""

    method: str
    pool: str
    selection: str
    deterministic: bool
    cells: dict[str, Annotated[list[Choice], Field(min_length=1)]]


class DistilledImage(_Record):
    file: str
    class_index: Index
    index: Index
    sha256: str


class Manifest(_Record):
    """The images of one distilled set."""

    method: str
    ipc: Count
    draw: Index
    images: Annotated[list[DistilledImage], Field(min_length=1)]

    @property
    def folder(self) -> Path:
        """The set's directory below the root."""
        return Path(f"data/distilled/{self.method}/ipc-{self.ipc}/draw-{self.draw}")


@dataclass(frozen=True)
class Results:
    """Every checked record of the grid: one selection per method, the cells, and the full-data cells."""

    selections: list[Selection]
    cells: list[Cell]
    full: list[Cell]

    def cell(self, method: str, ipc: int, student: str, protocol: str) -> Cell:
        """One cell of the grid."""
        wanted = (method, ipc, student, protocol)
        return next(cell for cell in self.cells if (cell.method, cell.ipc, cell.student, cell.protocol) == wanted)


@dataclass(frozen=True)
class PoolFeatures:
    """Unit-norm ``features`` (N, dim) with the ``draw``, ``class_index`` and ``index`` (N,) of each image."""

    features: np.ndarray
    draw: np.ndarray
    class_index: np.ndarray
    index: np.ndarray

    def subset(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, dim) and class_index (n,) of the given ``rows``."""
        return self.features[rows], self.class_index[rows]

    def rows(self, manifest: Manifest) -> np.ndarray:
        """Row numbers of the manifest's images, in its order.

        Raises:
            ArtifactError: naming the first image without a feature.
        """
        places = np.stack([self.draw, self.class_index, self.index], axis=1).tolist()
        known = {tuple(place): row for row, place in enumerate(places)}
        # A pool of real images has no draws of its own: every set is cut from the same images.
        draw = manifest.draw if self.draw.any() else 0
        found = []
        for image in manifest.images:
            row = known.get((draw, image.class_index, image.index))
            if row is None:
                place = f"draw {draw}, class_index {image.class_index}, index {image.index}"
                raise _stale(manifest.folder / "manifest.json", f"{image.file} ({place}) has no feature in its pool")
            found.append(row)
        return np.array(found)


def read_results(
    root: Path,
    *,
    methods: Mapping[str, tuple[str, str]],
    ipc: Sequence[int],
    students: Sequence[str],
    draws: int,
    seeds: int,
    protocols: Sequence[str],
    split: str,
) -> Results:
    """The whole grid, in the order of its axes; files outside the grid are never looked at.

    Args:
        methods: name -> (pool, selection) the record must have been written for.
    """
    selections = [
        read_selection(root, method=name, pool=pool, selection=selection, ipcs=ipc, draws=draws)
        for name, (pool, selection) in methods.items()
    ]
    score = {"split": split, "seeds": seeds}
    grid = itertools.product(methods, ipc, students, protocols)
    cells = [
        read_cell(root, method=method, ipc=k, student=student, protocol=protocol, draws=draws, **score)
        for method, k, student, protocol in grid
    ]
    full = [
        read_cell(root, method=FULL, ipc=FULL, student=student, protocol=protocol, draws=1, **score)
        for student, protocol in itertools.product(students, protocols)
    ]
    for cell in [*cells, *full]:
        path = _cell_path(cell.method, cell.ipc, cell.student, cell.protocol)
        if cell.classes != cells[0].classes:
            raise _stale(path, f"classes {cell.classes}, {cells[0].method} has {cells[0].classes}")
        if cell.precision != cells[0].precision:  # machines of two kinds shared the work
            raise ArtifactError(
                f"{path}: trained in {cell.precision}, {cells[0].method} in {cells[0].precision}; "
                "name one in compute.precision, or `dvc repro -f students full_data`"
            )
    return Results(selections, cells, full)


def read_cell(
    root: Path, *, method: str, ipc: int | str, student: str, protocol: str, split: str, draws: int, seeds: int
) -> Cell:
    """The checked result cell of one method, IPC and student; ``ipc="full"`` reads the whole-data upper bound.

    Raises:
        ArtifactError: file missing or malformed, written for other parameters, or not draws x seeds runs.
    """
    path = _cell_path(method, ipc, student, protocol)
    cell = _read_json(root, path, Cell)
    for key, wanted in {"method": method, "ipc": ipc, "student": student, "protocol": protocol, "split": split}.items():
        if getattr(cell, key) != wanted:
            raise _stale(path, f"{key} is {getattr(cell, key)!r}, wanted {wanted!r}")
    found = sorted((run.draw, run.seed) for run in cell.runs)
    if found != [(draw, seed) for draw in range(draws) for seed in range(seeds)]:
        raise _stale(path, f"{len(found)} runs {found}, wanted {draws} draws x {seeds} seeds")
    return cell


def read_selection(root: Path, *, method: str, pool: str, selection: str, ipcs: Sequence[int], draws: int) -> Selection:
    """The checked selection record of one method, covering all ``ipcs`` and ``draws``."""
    path = Path("metrics/selection", f"{method}.json")
    record = _read_json(root, path, Selection)
    for key, wanted in {"method": method, "pool": pool, "selection": selection}.items():
        if getattr(record, key) != wanted:
            raise _stale(path, f"{key} is {getattr(record, key)!r}, wanted {wanted!r}")
    for ipc in ipcs:
        found = sorted(choice.draw for choice in record.cells.get(str(ipc), []))
        if found != list(range(draws)):
            raise _stale(path, f"IPC {ipc} holds draws {found}, wanted 0 to {draws - 1}")
    return record


def read_manifest(root: Path, *, method: str, ipc: int, draw: int) -> Manifest:
    """The checked manifest of one distilled set."""
    path = Path(f"data/distilled/{method}/ipc-{ipc}/draw-{draw}/manifest.json")
    manifest = _read_json(root, path, Manifest)
    found, wanted = (manifest.method, manifest.ipc, manifest.draw), (method, ipc, draw)
    if found != wanted:
        raise _stale(path, f"describes (method, ipc, draw) {found}, wanted {wanted}")
    return manifest


def read_images(root: Path, manifest: Manifest, *, classes: int, count: int) -> np.ndarray:
    """The first ``count`` images of each class as uint8 (classes, count, H, W, 3), hashes checked.

    Fewer than ``count`` where the set has fewer per class.
    """
    folder = manifest.folder
    count = min(count, manifest.ipc)
    rows = []
    for class_index in range(classes):
        chosen = [image for image in manifest.images if image.class_index == class_index][:count]
        if len(chosen) < count:
            found = f"class_index {class_index} has {len(chosen)} images, wanted {count}"
            raise _stale(folder / "manifest.json", found)
        rows.append([_read_image(root, folder / image.file, image.sha256) for image in chosen])
    shapes = {image.shape for row in rows for image in row}
    if len(shapes) != 1:
        raise _stale(folder, f"images of several sizes {sorted(shapes)}, wanted one")
    return np.array(rows)


def read_features(root: Path, *, pool: str) -> PoolFeatures:
    """The features of every image of a pool."""
    path = Path(f"data/features/{pool}/features.safetensors")
    try:
        tensors = load_safetensors(_read_bytes(root, path))
    except SafetensorError as error:
        raise _stale(path, f"not a complete safetensors file ({error})") from error
    names = ("features", "draw", "class_index", "index")
    if missing := [name for name in names if name not in tensors]:
        raise _stale(path, f"holds {sorted(tensors)}, {missing[0]!r} is missing")
    features, *labels = (tensors[name] for name in names)
    if features.ndim != 2 or any(label.shape != features.shape[:1] for label in labels):
        raise _stale(path, f"shapes {[tensors[name].shape for name in names]}, wanted (N, dim) and three times (N,)")
    return PoolFeatures(features, *labels)


def read_coverage(root: Path) -> pd.DataFrame:
    """The table of the stage ``coverage``; an IPC is missing where a pool serves every IPC."""
    path = Path("metrics/coverage.csv")
    try:
        frame = pd.read_csv(io.BytesIO(_read_bytes(root, path)), dtype={"kind": str, "name": str})
    except ValueError as error:
        raise _stale(path, f"not a table ({' '.join(str(error).split())})") from error
    wanted = ["kind", "name", "ipc", "draw", "precision", "recall", "density", "coverage", "boundary", "recognised"]
    if list(frame) != wanted:
        raise _stale(path, f"columns {list(frame)}, wanted {wanted}")
    return frame


def read_curve(root: Path, path: Path) -> pd.DataFrame:
    """The loss curve of one training as long rows: step, series, value; cells not logged are left out."""
    try:
        wide = pd.read_csv(io.BytesIO(_read_bytes(root, path)), dtype=float)
    except ValueError as error:
        raise _stale(path, f"not a table of numbers ({' '.join(str(error).split())})") from error
    if "step" not in wide or wide["step"].isna().any() or wide.empty:
        raise _stale(path, f"columns {list(wide)} with {len(wide)} rows, wanted 'step' filled in every row")
    long = wide.melt(id_vars="step", var_name="series").dropna(subset="value")
    return long.astype({"step": int}).reset_index(drop=True)


def _cell_path(method: str, ipc: int | str, student: str, protocol: str) -> Path:
    rules = f"{student}-{protocol}.json"
    name = f"full_data/{rules}" if ipc == FULL else f"cells/{method}-{ipc}-{rules}"
    return Path("metrics", name)


def _read_image(root: Path, path: Path, sha256: str) -> np.ndarray:
    data = _read_bytes(root, path)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise _stale(path, f"SHA-256 is {found[:12]}…, its manifest says {sha256[:12]}…")
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("L", "RGB"):
            raise _stale(path, f"image mode {image.mode}, wanted 8-bit L or RGB")
        return np.array(image.convert("RGB"))


def _read_json(root: Path, path: Path, kind: type[Checked]) -> Checked:
    try:
        return kind.model_validate_json(_read_bytes(root, path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _stale(path, f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from error


def _read_bytes(root: Path, path: Path) -> bytes:
    try:
        return (root / path).read_bytes()
    except FileNotFoundError as error:
        raise _stale(path, "no such file") from error


def _stale(path: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{path.as_posix()}: {found}; run `dvc repro`")
