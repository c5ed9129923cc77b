"""Readers of what earlier stages wrote for the report; whatever is missing, truncated or stale is refused.

Every function takes the project's root and names; the files are found by the project's fixed layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from ims3core.base import files
from ims3core.base.records import EXACT, Record, stale
from ims3core.base.schema import Count, Fraction, Index, NonNegative
from ims3core.data import distilled
from ims3core.data.distilled import SetKey
from ims3core.errors import ArtifactError

if TYPE_CHECKING:
    from ims3core.data.pools import Place
    from ims3core.params.sections import Eval

FULL = "full"  # the method and IPC of the upper bound: every real training image
REAL = "real"  # the pool, and the t-SNE group, of real training images
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Run(Record):
    """One training of one student: ``curve`` holds (step, training loss, top-1 in percent)."""

    draw: Index
    seed: Index
    last_top1: Percent
    best_top1: Percent
    curve: Annotated[list[tuple[Index, FiniteFloat, Percent]], Field(min_length=1)]

    @model_validator(mode="after")
    def _ends_in_the_score(self) -> Run:
        last = max(self.curve)[2]
        if self.last_top1 != last or self.best_top1 < last:
            found = f"{self.last_top1} and {self.best_top1}"
            raise ValueError(f"last_top1, best_top1: found {found}, the curve ends in {last}")
        return self


class Cell(Record):
    """All runs of one method, IPC and student; ``confusion[actual][predicted]`` is summed over the runs."""

    method: str
    ipc: Count | str
    student: str
    protocol: str
    split: str
    precision: str
    draws: Count
    seeds: Count
    classes: Annotated[list[str], Field(min_length=2)]
    confusion: list[list[Index]]
    runs: Annotated[list[Run], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_square(self) -> Cell:
        if {len(self.confusion), *map(len, self.confusion)} != {len(self.classes)}:
            raise ValueError(f"confusion: not a square of the {len(self.classes)} classes")
        return self


NEEDS = {  # a fact about a choice, and those without which it says nothing
    "closeness": ["separation"], "separation": ["closeness"], "bound": ["objective", "bound_kind", "gap"],
    "bound_kind": ["bound"], "gap": ["bound"], "converged": ["sweeps"],
}  # fmt: skip


class Choice(Record):
    """One selected set: the two terms of Eq. 10, unweighted, and where a search ran its objective and bound.

    A selection may report more than the report shows.
    """

    model_config = EXACT | ConfigDict(extra="allow")

    draw: Index
    objective: FiniteFloat | None = None
    closeness: FiniteFloat | None = None
    separation: FiniteFloat | None = None
    bound: FiniteFloat | None = None
    bound_kind: str | None = None
    gap: FiniteFloat | None = None
    sweeps: Index | None = None
    converged: bool | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Choice:
        for key, others in NEEDS.items():
            if getattr(self, key) is not None and (missing := [name for name in others if getattr(self, name) is None]):
                raise ValueError(f"{missing[0]}: missing beside {key}")
        return self


class SelectionReport(Record):
    """The choices of one method, per IPC (as text) and draw."""

    method: str
    pool: str
    selection: str
    deterministic: bool
    cells: dict[str, Annotated[list[Choice], Field(min_length=1)]]


@dataclass(frozen=True)
class Results:
    """Every checked record of the grid: one selection report per method, the cells, and those of full data."""

    selections: list[SelectionReport]
    cells: list[Cell]
    full: list[Cell]

    def cell(self, method: str, ipc: int, student: str, protocol: str) -> Cell:
        """One cell of the grid."""
        key = (method, ipc, student, protocol)
        return next(cell for cell in self.cells if (cell.method, cell.ipc, cell.student, cell.protocol) == key)


def read_results(root: Path, made_of: Mapping[str, tuple[str, str]], grid: Eval) -> Results:
    """The whole grid, in the order of its axes; files outside the grid are never opened.

    Args:
        made_of: method -> (pool, selection) of the parameters, or (start, refinement).

    Raises:
        ArtifactError: naming a file that is missing, malformed or was written for other parameters.
    """
    selections = [_selection(root, grid, method, made_of[method]) for method in grid.methods]
    keys = itertools.product(grid.methods, grid.ipc, grid.students, grid.protocols)
    cells = [_cell(root, grid, *key, draws=grid.draws) for key in keys]
    full = [_cell(root, grid, FULL, FULL, *key, draws=1) for key in itertools.product(grid.students, grid.protocols)]
    first = cells[0]
    for cell in [*cells, *full]:
        path = _cell_path(root, cell.method, cell.ipc, cell.student, cell.protocol)
        if cell.classes != first.classes:
            raise stale(path, f"classes {cell.classes}, {first.method} has {first.classes}")
        if cell.precision != first.precision:  # machines of two kinds shared the work
            raise ArtifactError(
                f"{path}: trained in {cell.precision}, {first.method} in {first.precision}; "
                "name one in compute.precision, or `dvc repro -f students full_data`"
            )
    return Results(selections, cells, full)


def _cell(root: Path, grid: Eval, method: str, ipc: int | str, student: str, protocol: str, *, draws: int) -> Cell:
    """The checked cell of one method, IPC and student: all draws x seeds runs of it."""
    path = _cell_path(root, method, ipc, student, protocol)
    cell: Cell = files.read_json(path, Cell)
    _check(path, cell, method=method, ipc=ipc, student=student, protocol=protocol, split=grid.split)
    runs = sorted((run.draw, run.seed) for run in cell.runs)
    if runs != [(draw, seed) for draw in range(draws) for seed in range(grid.seeds)]:
        raise stale(path, f"{len(runs)} runs {runs}, wanted {draws} draws x {grid.seeds} seeds")
    return cell


def _cell_path(root: Path, method: str, ipc: int | str, student: str, protocol: str) -> Path:
    name = f"{student}-{protocol}.json"
    return root / "metrics" / (f"full_data/{name}" if ipc == FULL else f"cells/{method}-{ipc}-{name}")


def _selection(root: Path, grid: Eval, method: str, made_of: tuple[str, str]) -> SelectionReport:
    """The checked selection report of one method, covering every IPC and draw."""
    path = root / "metrics/selection" / f"{method}.json"
    report: SelectionReport = files.read_json(path, SelectionReport)
    _check(path, report, method=method, pool=made_of[0], selection=made_of[1])
    for ipc in grid.ipc:
        draws = sorted(choice.draw for choice in report.cells.get(str(ipc), []))
        if draws != list(range(grid.draws)):
            raise stale(path, f"IPC {ipc} holds draws {draws}, wanted 0 to {grid.draws - 1}")
    return report


def _check(path: Path, record: Record, **expected: int | str) -> None:
    """Raises an ArtifactError for the first field of ``record`` that has another value than expected."""
    for key, value in expected.items():
        if getattr(record, key) != value:
            raise stale(path, f"{key} is {getattr(record, key)!r}, wanted {value!r}")


@dataclass(frozen=True)
class DistilledSet:
    """A distilled set with its checked manifest."""

    directory: Path
    manifest: distilled.SetManifest

    def images(self, *, classes: int, count: int) -> np.ndarray:
        """The first ``count`` images of each class as uint8 (classes, count, H, W, 3), hashes checked.

        Fewer than ``count`` where the set has fewer per class.
        """
        count = min(count, self.manifest.ipc)
        rows = []
        for class_index in range(classes):
            chosen = [image for image in self.manifest.images if image.class_index == class_index][:count]
            if len(chosen) < count:
                problem = f"class_index {class_index} has {len(chosen)} images, wanted {count}"
                raise stale(self.directory / files.MANIFEST, problem)
            rows.append([_rgb(distilled.read_pixels(self.directory, image)) for image in chosen])
        shapes = {image.shape for row in rows for image in row}
        if len(shapes) != 1:
            raise stale(self.directory, f"images of several sizes {sorted(shapes)}, wanted one")
        return np.array(rows)

    def rows(self, place: Place) -> list[int]:
        """Row numbers of the set's images in the pool whose coordinates are ``place``, in the set's order.

        Raises:
            ArtifactError: naming the first image that is not in the pool.
        """
        coordinates = zip(place.draw.tolist(), place.class_index.tolist(), place.index.tolist(), strict=True)
        row_of = {key: row for row, key in enumerate(coordinates)}
        # A pool of real images has no draws of its own: every set is cut from the same images.
        draw = self.manifest.draw if place.draw.any() else 0
        for image in self.manifest.images:
            if (draw, image.class_index, image.index) not in row_of:
                key = f"draw {draw}, class_index {image.class_index}, index {image.index}"
                raise stale(self.directory / files.MANIFEST, f"{image.file} ({key}) has no feature in its pool")
        return [row_of[draw, image.class_index, image.index] for image in self.manifest.images]


def open_set(root: Path, key: SetKey) -> DistilledSet:
    """The distilled set ``key``, its manifest checked."""
    directory = root / key.folder
    manifest = distilled.read_set_manifest(directory)
    described = SetKey(manifest.method, manifest.ipc, manifest.draw)
    if described != key:
        path = directory / files.MANIFEST
        raise stale(path, f"describes (method, ipc, draw) {tuple(described)}, wanted {tuple(key)}")
    return DistilledSet(directory, manifest)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """A grey or colour image (channels, H, W) as (H, W, 3)."""
    return (np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels).transpose(1, 2, 0)


class CoverageRow(Record):
    """What was measured of a pool, a set or the held-out images; a pool that serves every IPC has none."""

    kind: Literal["pool", "set", "real"]
    name: str
    ipc: Count | None = None
    draw: Index
    precision: Fraction | None = None
    recall: Fraction | None = None
    density: NonNegative | None = None
    coverage: Fraction | None = None
    boundary: FiniteFloat | None = None
    recognised: Percent | None = None


def read_coverage(root: Path, grid: Eval, pools: Collection[str]) -> pd.DataFrame:
    """The table of the stage ``coverage``, which has every drawn set of ``grid`` and the generated ``pools``.

    Raises:
        ArtifactError: naming a value that is none, or what the table should hold and does not.
    """
    path = root / "metrics/coverage.csv"
    rows = files.read_table(path, CoverageRow)
    found = {(row.kind, row.name, row.ipc, row.draw) if row.kind == "set" else (row.kind, row.name) for row in rows}
    sets = [("set", *key) for key in itertools.product(grid.methods, grid.ipc, range(grid.draws))]
    for wanted in [*sets, *(("pool", name) for name in pools), ("real", "validation")]:
        if wanted not in found:
            raise stale(path, f"no line of {' '.join(map(str, wanted))}")
    return pd.read_csv(path, dtype={"kind": str, "name": str})


def read_curve(path: Path) -> pd.DataFrame:
    """The loss curve of one training as long rows: step, series, value; cells not logged are left out."""
    wide = read_losses(path)
    long = wide.melt(id_vars="step", var_name="series").dropna(subset="value")
    return long.astype({"step": int}).reset_index(drop=True)


def read_losses(path: Path) -> pd.DataFrame:
    """The loss curve of one training as it was written, a row per step; part of an artifact with a manifest."""
    files.read_csv(files.checked(path))
    try:
        wide = pd.read_csv(path, dtype=float)
    except ValueError as error:
        raise stale(path, f"not a table of numbers ({' '.join(str(error).split())})") from error
    if "step" not in wide or wide["step"].isna().any() or wide.empty:
        raise stale(path, f"columns {list(wide)} with {len(wide)} rows, wanted 'step' filled in every row")
    return wide
