"""The report as one offline HTML page.

Formatting only: every number arrives computed. The page needs no network; its pictures are embedded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from ims3core.report import tables
from ims3core.report.answer import LISTED, Answer
from ims3core.report.artifacts import FULL, REAL
from ims3core.report.data import COMPARED_WITH, HIGHER, NOTHING, ReportData
from ims3core.report.pictures import Picture
from ims3core.report.published import label

if TYPE_CHECKING:
    from ims3core.students.settings import Protocol

Line = dict[str, Any]  # one line of a table, formatted


@dataclass(frozen=True)
class StudyPart:
    """A study on the page: the claim it tests, its result in sentences, and its figures."""

    name: str
    claim: str
    sentences: list[str]
    pictures: list[Picture]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page.

    Attributes:
        charts: by the names the template asks for: curve, accuracy, selection, training, confusion, tsne.
        samples: by method.
        galleries: by class and method.
    """

    charts: Mapping[str, Picture]
    samples: Mapping[str, Picture]
    galleries: Mapping[str, Mapping[str, Picture]]


class Block:
    """The cells of one student under one protocol."""

    def __init__(self, data: ReportData, student: str, protocol: str) -> None:
        self.student, self.protocol, self._data = student, protocol, data
        chosen = data.summary[(data.summary["student"] == student) & (data.summary["protocol"] == protocol)]
        self._rows = {(row.method, row.ipc): row for row in chosen.itertuples()}

    @property
    def title(self) -> str:
        """The student, and the protocol where there are several."""
        return self.student if len(self._data.grid.protocols) == 1 else f"{self.student}, protocol {self.protocol}"

    def cell(self, method: str, ipc: int | str) -> Any:
        """The summary of one method and IPC."""
        return self._rows[method, str(ipc)]

    @property
    def full(self) -> Any:
        """The summary of full data."""
        return self.cell(FULL, FULL)

    def table(self) -> Line:
        """The compact table, method x IPC, with the length of each cell's bar in percent."""
        grid = self._data.grid
        best = {ipc: max(self.cell(method, ipc).mean for method in grid.methods) for ipc in grid.ipc}
        lines = [
            {"method": method, "cells": [
                {"text": plus_minus(row.mean, row.std), "bar": f"{row.mean:.1f}", "best": row.mean == best[ipc]}
                for ipc in grid.ipc for row in [self.cell(method, ipc)]
            ]}
            for method in grid.methods
        ]  # fmt: skip
        return {"student": self.title, "lines": lines, "full": plus_minus(self.full.mean, self.full.std)}

    def details(self, ipc: int) -> Line:
        """The table of one IPC: score, differences, the two sources of spread, best epoch."""
        keys = ["method", "ipc", "student", "protocol", "other"]
        differences = {tuple(getattr(row, key) for key in keys): row for row in self._data.comparisons.itertuples()}

        def line(method: str, row: Any, sets: str) -> Line:
            cell = (method, str(ipc), self.student, self.protocol)
            return {
                "method": method, "score": plus_minus(row.mean, row.std), "sets": sets,
                "differences": [_difference(differences.get((*cell, other))) for other in COMPARED_WITH],
                "seeds": number(row.std_seeds, ".2f"), "best": plus_minus(row.best_mean, row.best_std),
            }  # fmt: skip

        lines = []
        for method in self._data.grid.methods:
            row = self.cell(method, ipc)
            is_fixed = method in self._data.fixed
            lines.append(line(method, row, "one fixed set" if is_fixed else number(row.std_sets, ".2f")))
        return {"student": self.title, "ipc": ipc, "lines": [*lines, line(FULL, self.full, NOTHING)]}


def html(data: ReportData, answer: Answer, pictures: Pictures, studies: Sequence[StudyPart]) -> str:
    """The whole page, which begins with the ``answer``; ``studies`` are those of this data set that were run."""
    blocks = [Block(data, student, protocol) for protocol in data.grid.protocols for student in data.grid.students]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["label"] = label
    source = files("ims3core.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        data=data, answer=answer, listed=LISTED, grid=data.grid, pictures=pictures, studies=studies, HIGHER=HIGHER,
        protocol_texts={name: protocol_text(protocol) for name, protocol in data.protocols.items()},
        student_tables=[block.table() for block in blocks],
        details=[block.details(ipc) for block in blocks for ipc in data.grid.ipc],
        tiles=_tiles(data, blocks[0]), selection_rows=_selection_rows(data.selections),
        coverage_rows=_coverage_rows(data.coverage), cost_rows=data.costs.to_dict("records"),
        paper=_paper_table(tables.paper_rows(dataset="ImageWoof", ipc=10)),
    )  # fmt: skip


def protocol_text(protocol: Protocol) -> str:
    """A student protocol in a few words."""
    length = f"{protocol.steps} steps" if protocol.epochs is None else f"{protocol.epochs} epochs"
    labels = "hard labels" if protocol.labels == "hard" else f"the teacher's labels at T = {protocol.temperature:g}"
    batch = f"batch {protocol.batch_size}" if isinstance(protocol.batch_size, int) else "batch by IPC"
    optimiser = {"sgd": "SGD", "adamw": "AdamW"}[protocol.optimiser]
    mixing = f"CutMix with probability {protocol.cutmix:g}" if protocol.cutmix else "no CutMix"
    schedule = protocol.schedule.replace("_", " ")
    return f"{labels}, {length}, {batch}, {optimiser} at {protocol.lr:g}, {schedule} schedule, {mixing}"


def plus_minus(mean: float, std: float) -> str:
    """Text like "91.3 ± 0.8", without the spread where there is none."""
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def with_sign(value: float) -> str:
    """Text like "+1.2" or "−0.4"; a value that rounds to zero has no sign."""
    text = f"{abs(value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "−") + text


def number(value: float, form: str) -> str:
    """``value`` in the given format, or a dash for none."""
    return NOTHING if math.isnan(value) else f"{value:{form}}".replace("-", "−")


def _difference(row: Any) -> Line:
    """A paired difference with the half-width of its interval and the verdict; "beyond" when 0 is outside."""
    if row is None:
        return {"text": NOTHING, "verdict": "", "beyond": False}
    spread = "" if math.isnan(row.half_width) else f" ± {row.half_width:.1f}"
    text = with_sign(row.difference) + spread
    return {"text": text, "verdict": row.verdict, "beyond": row.verdict in ("better", "worse")}


def _coverage_rows(coverage: pd.DataFrame) -> list[Line]:
    """Held-out real images first, then a line per pool, and per set and IPC: means over the draws."""
    measures = ["precision", "recall", "density", "coverage", "boundary", "recognised"]
    means = coverage.groupby(["kind", "name", "ipc"], sort=False, dropna=False)[measures].mean().reset_index()
    means = means.sort_values("kind", key=lambda kinds: kinds != REAL, kind="stable")
    real = next(means[means["kind"] == REAL].itertuples(), None)
    return [
        {"kind": row.kind, "name": row.name, "warning": _unlike_real(row, real) if row.kind == "pool" else "",
         "ipc": NOTHING if pd.isna(row.ipc) else f"{row.ipc:.0f}",
         **{name: number(getattr(row, name), ".1f" if name == "recognised" else ".3f") for name in measures}}
        for row in means.itertuples(index=False)
    ]  # fmt: skip


def _unlike_real(row: Any, real: Any) -> str:
    """What a pool shows that real images do not, at less than half of what held-out ones reach; empty: nothing.

    Held-out images are no more than the pool's, and coverage only grows with their number.
    """
    if real is None:
        return ""
    if 2 * row.precision < real.precision:
        return "most images lie where no real ones are, as noise does"
    if 2 * row.coverage < real.coverage:
        return "lies in few places, as noise does: the precision says nothing"
    return ""


def _tiles(data: ReportData, block: Block) -> list[Line]:
    """The headline: the highest row at each IPC for the first student and protocol, and the full-data bound."""

    def tile(head: str, row: Any, notes: list[str]) -> Line:
        std = "" if math.isnan(row.std) else f"± {row.std:.1f}"
        return {"head": head, "mean": f"{row.mean:.1f}", "std": std, "notes": notes}

    tiles = []
    for ipc in data.grid.ipc:
        row = max((block.cell(method, ipc) for method in data.grid.methods), key=lambda cell: cell.mean)
        others = [name for name in COMPARED_WITH if name in data.grid.methods and name != row.method]
        notes = [f"{with_sign(row.mean - block.cell(other, ipc).mean)} to {label(other)}" for other in others]
        if len(data.grid.methods) > 1:
            notes.append(f"the highest mean of {len(data.grid.methods)} rows")
        tiles.append(tile(f"{label(row.method)}, {ipc} image{'' if ipc == 1 else 's'} per class", row, notes))
    return [*tiles, tile(label(FULL), block.full, ["trained on every real training image"])]


def _selection_rows(selections: pd.DataFrame) -> list[Line]:
    """One line per method and IPC: means over the drawn sets, and the worst gap to the bound."""
    lines = []
    for (method, ipc), sets in selections.groupby(["method", "ipc"], sort=False):
        means = sets[["closeness", "separation", "objective", "bound"]].mean()
        lines.append({
            "method": method, "ipc": ipc, "sets": len(sets),
            **{name: number(value, ".3f") for name, value in means.items()},
            "kind": ", ".join(sorted(set(sets["bound_kind"].dropna()))) or NOTHING,
            "gap": number(sets["gap"].max(), ".2g"), "sweeps": number(sets["sweeps"].max(), ".0f"),
        })  # fmt: skip
    return lines


def _paper_table(paper: pd.DataFrame) -> Line:
    """Method x model of the paper's rows, in printed order."""
    models, blocks = list(paper["model"].unique()), [list(rows) for _, rows in paper.groupby("model")["method"]]
    # Methods in the order of the longest block: those that another block lacks would come last otherwise.
    methods = max(blocks, key=len)
    assert set(methods) == set(paper["method"])
    texts = {(row.method, row.model): plus_minus(row.mean, row.std) for row in paper.itertuples()}
    return {
        "models": models,
        "lines": [{"method": m, "cells": [texts.get((m, model), NOTHING) for model in models]} for m in methods],
    }
