"""Runs of several profiles side by side, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ims3core.base import files
from ims3core.base.records import REMEDY
from ims3core.errors import ArtifactError, ParameterError
from ims3core.report import published, tables
from ims3core.report.artifacts import FULL
from ims3core.report.layouts import escaped
from ims3core.report.statistics import FLOOR, gap_share


def read(path: Path) -> pd.DataFrame:
    """The trained students of one profile, as ``metrics/accuracy.csv``.

    Raises:
        ArtifactError: if the file is missing or no such table.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: not there; `ims3 run {path.parent.name}` makes it")
    try:
        files.read_table(path, tables.RunRow)
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(REMEDY, f"`ims3 run {path.parent.name}` makes it anew")) from error
    kinds = dict.fromkeys(["method", "ipc", "student", "protocol"], str) | dict.fromkeys(
        ["last_top1", "best_top1"], float
    )
    return pd.read_csv(path, dtype=kinds)


def markdown(runs: Mapping[str, pd.DataFrame], *, protocol: str) -> str:
    """Two tables, accuracies and shares of the gap: a row per method, a column per profile and IPC.

    Accuracies are the mean and standard deviation over all students of the last epoch, the best of a column bold.
    The share is (method - DiT) / (full data - DiT), in percent.

    Args:
        runs: profile -> its students, of which the first kind counts.

    Raises:
        ParameterError: if a profile was not run under the protocol.
    """
    columns: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for name, frame in runs.items():
        if protocol not in set(frame["protocol"]):
            protocols = ", ".join(frame["protocol"].unique())
            raise ParameterError(f"--protocol: {name} was not run under {protocol!r}; known: {protocols}")
        summary = tables.summary(frame[(frame["protocol"] == protocol) & (frame["student"] == frame["student"][0])])
        cells = {(row.method, row.ipc): (row.mean, row.std) for row in summary.itertuples()}
        full = {FULL: cells[FULL, FULL]} if (FULL, FULL) in cells else {}
        for ipc in dict.fromkeys(row.ipc for row in summary.itertuples() if row.ipc != FULL):
            columns[name, ipc] = {method: value for (method, k), value in cells.items() if k == ipc} | full
    rows = sorted({method for column in columns.values() for method in column}, key=_place)
    heads = [f"{name}, IPC {ipc}" for name, ipc in columns]
    accuracy = _table(heads, rows, [_accuracies(column) for column in columns.values()])
    shares = _table(heads, [row for row in rows if row not in (FLOOR, FULL)], [_shares(c) for c in columns.values()])
    return f"{accuracy}\n\nShare of the gap from {published.label(FLOOR)} to full data, %:\n\n{shares}"


def _place(method: str) -> tuple[int, str]:
    """The position of a row: those of the paper in its order, then others by name, full data last."""
    order = [name for name in published.LABELS if name != FULL]
    return (len(order) + 1 if method == FULL else order.index(method) if method in order else len(order), method)


def _accuracies(column: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    best = max((mean for method, (mean, _) in column.items() if method != FULL), default=None)
    texts = {}
    for method, (mean, std) in column.items():
        text = f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"
        texts[method] = f"**{text}**" if method != FULL and mean == best else text
    return texts


def _shares(column: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    if FLOOR not in column or FULL not in column:
        return {}
    floor, full = column[FLOOR][0], column[FULL][0]
    shares = {method: gap_share(mean, floor=floor, full=full) for method, (mean, _) in column.items()}
    return {method: f"{value:.0f}" for method, value in shares.items() if not math.isnan(value)}


def _table(heads: list[str], rows: list[str], columns: list[dict[str, str]]) -> str:
    lines = ["| method | " + " | ".join(heads) + " |", "| :-- |" + " --: |" * len(heads)]
    lines += [
        f"| {escaped(published.label(row))} | " + " | ".join(column.get(row, "–") for column in columns) + " |"
        for row in rows
    ]
    return "\n".join(lines)
