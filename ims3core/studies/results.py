"""The tables of studies: one line per value that an experiment left."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import FiniteFloat

from ims3core.base import files
from ims3core.base.records import REMEDY, Record
from ims3core.base.schema import Index
from ims3core.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ims3core.report.artifacts import Run
    from ims3core.studies.definitions import Study
    from ims3core.studies.settings import Setting

log = logging.getLogger(__name__)
HOME = Path("metrics/studies")
FACTS = ["data", "key"]
VALUES = ["row", "ipc", "draw", "seed", "metric", "value"]
PLANE = ["key", "kind", "class", "x", "y"]
COVERAGE = ("precision", "recall", "density", "coverage", "boundary", "recognised")
PERCENT = ("precision", "recall", "coverage")  # shares in the stage's table, points here
COST = ("sampling_calls", "finetuning_passes", "real_images")


class Measured(Record):
    """A line of the table of a diagnostic."""

    diagnostic: str
    measure: str
    sample: Index
    value: FiniteFloat


def path_of(root: Path, name: str, kind: str = "csv") -> Path:
    """The file of a study's table or figure."""
    return root / HOME / f"{name}.{kind}"


def read(root: Path, name: str, labels: list[str]) -> pd.DataFrame:
    """The table of a study, empty where there is none or its labels are those of an earlier definition."""
    columns = [*FACTS, *labels, *VALUES]
    return _read(path_of(root, name), columns, always=[*FACTS, *VALUES], numbers=["draw", "seed", "value"])


def _read(path: Path, columns: list[str], *, always: list[str], numbers: list[str]) -> pd.DataFrame:
    """The table in ``path`` if its columns are ``columns``; without those that are ``always`` there it is damaged."""
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    kinds = dict.fromkeys([name for name in columns if name not in numbers], str)
    try:
        if missing := [name for name in always if name not in files.read_csv(path)[0]]:
            raise ArtifactError(f"{path}: column {missing[0]} is missing")
        frame = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={"value": [""]})
        if list(frame.columns) != columns:
            return pd.DataFrame(columns=columns)
        for name in numbers:
            pd.to_numeric(frame[name])
        if odd := [key for key in frame["key"] if not re.fullmatch("[0-9a-f]{16}", key)]:
            raise ArtifactError(f"{path}: key: found {odd[0]!r}, wanted 16 hexadecimal digits")
    except (ArtifactError, ValueError) as error:
        problem = str(error).removesuffix(f"; {REMEDY}").removeprefix(f"{path}: ")
        raise ArtifactError(
            f"{path}: not a table of a study ({problem}); delete it, the study writes it again"
        ) from None
    return frame


def write(root: Path, name: str, frame: pd.DataFrame) -> None:
    """Writes the table of a study, whole or not at all."""
    files.write_csv(path_of(root, name), list(frame.columns), frame.itertuples(index=False))


def has_plane(root: Path, name: str, keys: list[str]) -> bool:
    """Whether there is a t-SNE plane, of one of the study's settings ``keys``."""
    drawn = set(read_plane(root, name)["key"])
    return bool(drawn) and drawn <= set(keys)


def read_plane(root: Path, name: str) -> pd.DataFrame:
    """The study's t-SNE plane: key, kind, class, x, y."""
    return _read(path_of(root, f"{name}-plane"), PLANE, always=PLANE, numbers=["x", "y"])


def write_plane(root: Path, name: str, clone: Path, setting: Setting) -> None:
    """The t-SNE plane of the rows' first sets of the largest IPC, as one finished experiment left them in ``clone``."""
    from ims3core import data
    from ims3core.data.distilled import SetKey
    from ims3core.report import artifacts, planes

    grid = setting.params.eval
    sets = {row: artifacts.open_set(clone, SetKey(row, max(grid.ipc), 0)) for row in grid.methods}
    classes = [entry.name for entry in data.read_classes(clone / "data/real/classes.json")]
    plane = planes.plane(setting.params, clone, sets, classes=classes)
    plane = plane.astype({"x": float, "y": float}).round({"x": 3, "y": 3})
    write(root, f"{name}-plane", plane.assign(key=setting.key)[PLANE])


def collect(clone: Path, study: Study, setting: Setting) -> pd.DataFrame:
    """The values that one finished experiment left in ``clone``."""
    readers: dict[str, Callable[[Path, Setting], list[tuple]]]
    readers = {"accuracy": _accuracy, "gap": _gap, "coverage": _coverage, "cost": _cost, "diagnostics": _diagnostics}
    lines = [line for measure in study.measures if measure in readers for line in readers[measure](clone, setting)]
    frame = pd.DataFrame(lines, columns=VALUES)
    frame["draw"] += setting.first_draw
    frame.insert(0, "data", setting.params.data.name or setting.params.data.source)
    frame.insert(1, "key", setting.key)
    for position, (name, value) in enumerate(setting.labels.items(), len(FACTS)):
        frame.insert(position, name, value)
    return frame.astype({"ipc": str})


def _accuracy(clone: Path, setting: Setting) -> list[tuple]:
    """Top-1 of the last epoch, of every row, IPC, draw and seed."""
    grid, lines = setting.params.eval, []
    for row in grid.methods:
        for ipc in grid.ipc:
            runs = _runs(clone / f"metrics/cells/{row}-{ipc}-{grid.students[0]}-{grid.protocols[0]}.json")
            lines += [(row, ipc, run.draw, run.seed, "accuracy", run.last_top1) for run in runs]
    return lines


def _runs(path: Path) -> list[Run]:
    """The runs in the file of a cell."""
    from ims3core.report.artifacts import Cell

    cell: Cell = files.read_json(path, Cell)
    return cell.runs


def _gap(clone: Path, setting: Setting) -> list[tuple]:
    """Of every drawn set the share of the gap from plain DiT to full data, %, and full data itself, which is one set.

    Both ends are means over all students of the same split: (set - DiT) / (full data - DiT).
    """
    from ims3core.report.statistics import FLOOR, gap_share

    grid = setting.params.eval
    full = _runs(clone / f"metrics/full_data/{grid.students[0]}-{grid.protocols[0]}.json")
    ceiling = mean(run.last_top1 for run in full)
    sets: dict[tuple[str, int, int], list[float]] = {}
    for row, ipc, draw, _, _, value in _accuracy(clone, setting):
        sets.setdefault((row, ipc, draw), []).append(value)
    lines: list[tuple] = [("full", "", 0, run.seed, "full_data", run.last_top1) for run in full]
    for ipc in grid.ipc:
        floor = mean(value for key, values in sets.items() if key[:2] == (FLOOR, ipc) for value in values)
        if ceiling <= floor:
            log.warning("gap: full data, %.2f, is not above DiT at IPC %s, %.2f: no share", ceiling, ipc, floor)
            continue
        lines += [
            (row, ipc, draw, 0, "gap", round(gap_share(mean(values), floor=floor, full=ceiling), 3))
            for (row, k, draw), values in sets.items()
            if k == ipc and row != FLOOR
        ]
    return lines


def _coverage(clone: Path, setting: Setting) -> list[tuple]:
    """The measures of every drawn set, and those of every pool under the pool's name and no IPC."""
    from ims3core.report.artifacts import CoverageRow

    lines = []
    for line in files.read_table(clone / "metrics/coverage.csv", CoverageRow):
        for metric in COVERAGE:
            if line.kind != "real" and (value := getattr(line, metric)) is not None:
                value = round(value * (100 if metric in PERCENT else 1), 3)
                lines.append((line.name, str(line.ipc or ""), line.draw, 0, metric, value))
    return lines


def _cost(clone: Path, setting: Setting) -> list[tuple]:
    """Network calls and real images of every row; times are the machine's and not tracked (`ims3 timings`)."""
    from ims3core.data import read_classes
    from ims3core.report import costs

    classes = len(read_classes(clone / "data/real/classes.json"))
    frame = costs.frame(setting.params, clone, classes=classes)
    return [(line["method"], "", 0, 0, name, line[name]) for line in frame.to_dict("records") for name in COST]


def _diagnostics(clone: Path, setting: Setting) -> list[tuple]:
    """Every sample of every diagnostic; a sample counts as a draw."""
    return [
        (row, "", line.sample, 0, line.measure, round(line.value, 5))
        for row in setting.params.diagnostics
        for line in files.read_table(clone / f"metrics/diagnostics/{row}.csv", Measured)
    ]
