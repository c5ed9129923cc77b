"""The accuracy tables in the paper's shape, row x IPC x student, one per protocol, in four formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ims3core.report.artifacts import FULL
from ims3core.report.published import UNSTATED, label

if TYPE_CHECKING:
    from ims3core.params.sections import Eval


@dataclass(frozen=True)
class Entry:
    """One cell: our mean and spread (NaN: none), and what the paper prints for it (empty: nothing)."""

    mean: float
    std: float
    best: bool
    paper: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """Text like "91.3 ± 0.8"; empty where there is no number of ours."""
        if math.isnan(self.mean):
            return ""
        return f"{self.mean:.1f}" if math.isnan(self.std) else f"{self.mean:.1f} ± {self.std:.1f}"


@dataclass(frozen=True)
class Layout:
    """One table: ``columns`` are (student, IPC), ``rows`` (method, its entries).

    Columns of :data:`~ims3core.report.published.UNSTATED`, at the end, hold numbers of the paper alone.
    """

    protocol: str
    columns: list[tuple[str, int]]
    rows: list[tuple[str, list[Entry]]]

    @property
    def heads(self) -> list[str]:
        """Column heads; the student is named where there are several."""
        many = len({student for student, _ in self.columns}) > 1
        return [f"{student}, IPC {ipc}" if many else f"IPC {ipc}" for student, ipc in self.columns]

    @property
    def notes(self) -> list[str]:
        """The footnotes, each once, in order of their marks."""
        return list(dict.fromkeys(entry.note for _, entries in self.rows for entry in entries if entry.note))

    @property
    def compared(self) -> bool:
        """Whether the paper has a number for any cell."""
        return any(entry.paper for _, entries in self.rows for entry in entries)


Published = Callable[[str, int, str], tuple[str, str]]
"""``(student, ipc, method) -> (number, footnote)`` of the paper; ``student`` may be ``UNSTATED``."""


def layout(
    summary: pd.DataFrame, grid: Eval, *, protocol: str, others: Sequence[str] = (),
    published: Published = lambda student, ipc, method: ("", ""),
) -> Layout:  # fmt: skip
    """The table of one protocol; the row "Full data" repeats its value at every IPC.

    Args:
        others: methods that stand in the table with their published numbers alone, above full data, if they have any.
    """
    rows = {(row.method, row.ipc, row.student, row.protocol): row for row in summary.itertuples()}
    columns = [(student, ipc) for student in grid.students for ipc in grid.ipc]
    best = {(s, k): max(rows[m, str(k), s, protocol].mean for m in grid.methods) for s, k in columns}

    def entry(method: str, student: str, ipc: int) -> Entry:
        if method in others:
            return Entry(math.nan, math.nan, False, *published(student, ipc, method))
        row = rows[method, FULL if method == FULL else str(ipc), student, protocol]
        is_best = method != FULL and row.mean == best[student, ipc]
        return Entry(row.mean, row.std, is_best, *published(student, ipc, method))

    methods = [*grid.methods, *(name for name in others if any(published(s, k, name)[0] for s, k in columns)), FULL]
    table = [(m, [entry(m, s, k) for s, k in columns]) for m in methods]
    for ipc in grid.ipc:
        printed = [published(UNSTATED, ipc, m) for m in methods]
        if any(number for number, _ in printed):
            columns.append((UNSTATED, ipc))
            for (_, entries), found in zip(table, printed, strict=True):
                entries.append(Entry(math.nan, math.nan, False, *found))
    return Layout(protocol, columns, table)


def higher(layouts: Mapping[str, Layout]) -> Layout | None:
    """The higher of two label types per cell, the paper's rule (D20); None unless there are two protocols.

    A row is that of all protocols; what is published under one of them alone has none.
    """
    if len(layouts) < 2:
        return None
    tables = [dict(table.rows) for table in layouts.values()]
    rows = []
    for method in (name for name in tables[0] if all(name in table for table in tables)):
        cells = zip(*(table[method] for table in tables), strict=True)
        rows.append((method, [max(entries, key=lambda entry: entry.mean) for entries in cells]))
    return Layout("higher", next(iter(layouts.values())).columns, rows)


def _marked(entry: Entry, table: Layout, *, bold: Callable[[str], str]) -> str:
    text = bold(entry.text) if entry.best else entry.text
    mark = f" [{table.notes.index(entry.note) + 1}]" if entry.note else ""
    return f"{text} ({entry.paper}){mark}".lstrip() if entry.paper else text


def markdown(table: Layout) -> str:
    """As Markdown; the paper's numbers in brackets."""
    lines = ["| method | " + " | ".join(table.heads) + " |", "| :-- |" + " --: |" * len(table.heads)]
    for method, entries in table.rows:
        cells = [_marked(entry, table, bold="**{}**".format) for entry in entries]
        lines.append(f"| {escaped(label(method))} | " + " | ".join(cells) + " |")
    lines += [f"\n[{n}] {note}" for n, note in enumerate(table.notes, start=1)]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """``text`` as one cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def latex(table: Layout) -> str:
    """As a LaTeX tabular (booktabs)."""

    def cell(entry: Entry) -> str:
        return _marked(entry, table, bold=r"\textbf{{{}}}".format).replace("±", r"$\pm$")

    names = {"_": r"\_", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "{": r"\{", "}": r"\}"}
    lines = [r"\begin{tabular}{l" + "r" * len(table.heads) + "}", r"\toprule",
             "method & " + " & ".join(table.heads).replace("_", r"\_") + r" \\", r"\midrule"]  # fmt: skip
    for method, entries in table.rows:
        if method == FULL:
            lines.append(r"\midrule")
        name = "".join(names.get(letter, letter) for letter in label(method))
        lines.append(f"{name} & " + " & ".join(cell(entry) for entry in entries) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def csv_frame(tables: Sequence[Layout]) -> pd.DataFrame:
    """All tables as long rows: protocol, method, student, ipc, mean, std, paper."""
    rows = [
        (table.protocol, method, student, ipc, entry.mean, entry.std, entry.paper)
        for table in tables
        for method, entries in table.rows
        for (student, ipc), entry in zip(table.columns, entries, strict=True)
    ]
    return pd.DataFrame(rows, columns=["protocol", "method", "student", "ipc", "mean", "std", "paper"])
