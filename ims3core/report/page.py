"""The report as one offline HTML page, and its main table as Markdown.

Formatting only: every number arrives computed. The page needs no network; figures are embedded for a
light and a dark background.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd

from ims3core.report.artifacts import FULL
from ims3core.report.layouts import Layout
from ims3core.report.published import label

NOTHING = "–"
Rows = dict[tuple[str, str, str, str], Any]


@dataclass(frozen=True)
class Setting:
    """What every number on the page was measured under; the names are those of params.yaml's ``eval``."""

    dataset: str
    classes: tuple[str, ...]
    featured: str
    methods: list[str]
    ipc: list[int]
    students: list[str]
    draws: int
    seeds: int
    split: str
    protocols: list[str]
    protocol_values: dict[str, dict[str, Any]]

    @property
    def blocks(self) -> list[Block]:
        """The student tables of the page, in order."""
        return [Block(student, protocol, self) for protocol in self.protocols for student in self.students]


@dataclass(frozen=True)
class Block:
    """One student under one protocol."""

    student: str
    protocol: str
    setting: Setting

    @property
    def title(self) -> str:
        """The student, and the protocol where there are several."""
        return self.student if len(self.setting.protocols) == 1 else f"{self.student}, protocol {self.protocol}"

    def row(self, rows: Rows, method: str, ipc: int | str) -> Any:
        """The summary of one method and IPC."""
        return rows[method, str(ipc), self.student, self.protocol]


@dataclass(frozen=True)
class Recipe:
    """What one row of the tables is made of: the entries of its method, pool and adaptation."""

    method: str
    pool: str
    source: str
    adaptation: str
    guide: str
    sampler: str
    selection: str
    refined: str


@dataclass(frozen=True)
class Picture:
    """One figure as PNG bytes for both backgrounds."""

    light: bytes
    dark: bytes


@dataclass(frozen=True)
class StudyPart:
    """A study on the page: the claim it tests, what was found, and its figures."""

    name: str
    claim: str
    sentences: list[str]
    pictures: list[Picture]


def html(
    *,
    setting: Setting,
    recipes: Sequence[Recipe],
    summary: pd.DataFrame,
    selections: pd.DataFrame,
    comparisons: pd.DataFrame,
    coverage: pd.DataFrame,
    costs: pd.DataFrame,
    layouts: Mapping[str, Layout],
    fixed: Sequence[str],
    pictures: Mapping[str, Picture],
    galleries: Mapping[str, Picture],
    studies: Sequence[StudyPart],
    paper: pd.DataFrame,
) -> str:
    """The whole page.

    Args:
        summary: as from ``tables.summary``, full data included.
        selections: as from ``tables.selections``.
        comparisons: as from ``statistics.comparisons``, against Random and DiT.
        coverage: the table of the stage ``coverage``.
        costs: as from ``costs.frame``.
        layouts: the table of every protocol, in the paper's shape, and ``higher`` where there are several.
        fixed: methods whose drawn sets are all the same, so that their means differ by the students alone.
        pictures: by the names the template asks for: accuracy, selection, training, confusion, samples, tsne.
        galleries: by class.
        studies: those of this data set that were run.
        paper: as from ``tables.paper_rows``.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"label": label, "data_uri": _data_uri}
    source = files("ims3core.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        setting=setting,
        protocol_texts={name: protocol_text(setting.protocol_values[name]) for name in setting.protocols},
        recipes=recipes,
        student_tables=[_student_table(summary, setting, block) for block in setting.blocks],
        details=[
            _detail(summary, comparisons, setting, block, ipc=ipc, fixed=fixed)
            for block in setting.blocks
            for ipc in setting.ipc
        ],
        tiles=_tiles(summary, setting),
        selection_rows=_selection_rows(selections),
        coverage_rows=_coverage_rows(coverage),
        cost_rows=costs.to_dict("records"),
        layouts=layouts,
        pictures=pictures,
        galleries=galleries,
        studies=studies,
        paper=_paper_table(paper),
    )


def protocol_text(values: Mapping[str, Any]) -> str:
    """A student protocol (a row of ``protocols``) in a few words."""
    length = f"{values['steps']} steps" if values["epochs"] is None else f"{values['epochs']} epochs"
    labels = "hard labels" if values["labels"] == "hard" else f"the teacher's labels at T = {values['temperature']:g}"
    rule = values["batch_size"]
    batch = f"batch {rule}" if isinstance(rule, int) else "batch by IPC"
    optimiser = {"sgd": "SGD", "adamw": "AdamW"}[values["optimiser"]]
    mixing = f"CutMix with probability {values['cutmix']:g}" if values["cutmix"] else "no CutMix"
    schedule = values["schedule"].replace("_", " ")
    return f"{labels}, {length}, {batch}, {optimiser} at {values['lr']:g}, {schedule} schedule, {mixing}"


def plus_minus(mean: float, std: float) -> str:
    """Text like "91.3 ± 0.8", without the spread where there is none."""
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def signed(value: float) -> str:
    """Text like "+1.2" or "−0.4"; a value that rounds to zero has no sign."""
    text = f"{abs(value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "−") + text


def number(value: float, form: str) -> str:
    """``value`` in the given format, or a dash for none."""
    return NOTHING if math.isnan(value) else f"{value:{form}}".replace("-", "−")


def _rows(summary: pd.DataFrame) -> Rows:
    return {(row.method, row.ipc, row.student, row.protocol): row for row in summary.itertuples()}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _student_table(summary: pd.DataFrame, setting: Setting, block: Block) -> dict:
    """The compact table of one student and protocol: method x IPC, with the length of each cell's bar in percent."""
    rows = _rows(summary)
    best = {ipc: max(block.row(rows, m, ipc).mean for m in setting.methods) for ipc in setting.ipc}
    lines = []
    for method in setting.methods:
        found = [block.row(rows, method, ipc) for ipc in setting.ipc]
        cells = [
            {"text": plus_minus(row.mean, row.std), "bar": f"{row.mean:.1f}", "best": row.mean == best[ipc]}
            for row, ipc in zip(found, setting.ipc, strict=True)
        ]
        lines.append({"method": method, "cells": cells})
    full = block.row(rows, FULL, FULL)
    return {"student": block.title, "lines": lines, "full": plus_minus(full.mean, full.std)}


def _detail(
    summary: pd.DataFrame, comparisons: pd.DataFrame, setting: Setting, block: Block, *, ipc: int, fixed: Sequence[str]
) -> dict:
    """One student, protocol and IPC: score, differences, the two sources of spread, best epoch."""
    rows = _rows(summary)
    mine = {method: block.row(rows, method, ipc) for method in setting.methods}
    keys = ["method", "ipc", "student", "protocol", "other"]
    found = {tuple(getattr(row, key) for key in keys): row for row in comparisons.itertuples()}

    def against(method: str, other: str) -> dict:
        return _difference(found.get((method, str(ipc), block.student, block.protocol, other)))

    lines = [
        {
            "method": method,
            "score": plus_minus(row.mean, row.std),
            "over_random": against(method, "random"),
            "over_dit": against(method, "dit"),
            "sets": "one fixed set" if method in fixed else number(row.std_sets, ".2f"),
            "seeds": number(row.std_seeds, ".2f"),
            "best": plus_minus(row.best_mean, row.best_std),
        }
        for method, row in mine.items()
    ]
    full = block.row(rows, FULL, FULL)
    nothing = {"text": NOTHING, "verdict": "", "beyond": False}
    lines.append(
        {
            "method": FULL,
            "score": plus_minus(full.mean, full.std),
            "over_random": nothing,
            "over_dit": nothing,
            "sets": NOTHING,
            "seeds": number(full.std_seeds, ".2f"),
            "best": plus_minus(full.best_mean, full.best_std),
        }
    )
    return {"student": block.title, "ipc": ipc, "lines": lines}


def _difference(row: Any) -> dict:
    """A paired difference with the half-width of its interval and the verdict; "beyond" when 0 is outside."""
    if row is None:
        return {"text": NOTHING, "verdict": "", "beyond": False}
    text = signed(row.difference) if math.isnan(row.half_width) else f"{signed(row.difference)} ± {row.half_width:.1f}"
    return {"text": text, "verdict": row.verdict, "beyond": row.verdict in ("better", "worse")}


def _coverage_rows(coverage: pd.DataFrame) -> list[dict]:
    """One line per pool, and per set and IPC: means over the draws."""
    measures = ["precision", "recall", "density", "coverage", "boundary", "recognised"]
    means = coverage.groupby(["kind", "name", "ipc"], sort=False, dropna=False)[measures].mean().reset_index()
    return [
        {"kind": row.kind, "name": row.name, "ipc": NOTHING if pd.isna(row.ipc) else f"{row.ipc:.0f}",
         **{name: number(getattr(row, name), ".1f" if name == "recognised" else ".3f") for name in measures}}
        for row in means.itertuples(index=False)
    ]  # fmt: skip


def _tiles(summary: pd.DataFrame, setting: Setting) -> list[dict]:
    """The headline: the featured method at each IPC for the first student and protocol, and the full-data bound."""
    rows, block = _rows(summary), setting.blocks[0]
    tiles = []
    for ipc in setting.ipc:
        row = block.row(rows, setting.featured, ipc)
        others = [block.row(rows, m, ipc) for m in ("random", "dit") if m in setting.methods]
        notes = [f"{signed(row.mean - o.mean)} to {label(o.method)}" for o in others if o.method != row.method]
        head = f"{label(setting.featured)}, {ipc} image{'' if ipc == 1 else 's'} per class"
        tiles.append({"head": head, "mean": f"{row.mean:.1f}", "std": _std(row.std), "notes": notes})
    full = block.row(rows, FULL, FULL)
    notes = ["trained on every real training image"]
    tiles.append({"head": label(FULL), "mean": f"{full.mean:.1f}", "std": _std(full.std), "notes": notes})
    return tiles


def _std(value: float) -> str:
    return "" if math.isnan(value) else f"± {value:.1f}"


def _selection_rows(selections: pd.DataFrame) -> list[dict]:
    """One line per method and IPC: means over the drawn sets, and the worst gap to the bound."""
    lines = []
    for (method, ipc), sets in selections.groupby(["method", "ipc"], sort=False):
        means = sets[["closeness", "separation", "objective", "bound"]].mean()
        kinds = sorted(set(sets["bound_kind"].dropna()))
        lines.append(
            {
                "method": method,
                "ipc": ipc,
                "sets": len(sets),
                **{name: number(value, ".3f") for name, value in means.items()},
                "kind": ", ".join(kinds) or NOTHING,
                "gap": number(sets["gap"].max(), ".2g"),
                "sweeps": number(sets["sweeps"].max(), ".0f"),
            }
        )
    return lines


def _paper_table(paper: pd.DataFrame) -> dict:
    """Method x model of the paper's rows, in printed order."""
    models, blocks = list(paper["model"].unique()), [list(rows) for _, rows in paper.groupby("model")["method"]]
    # The fullest block knows the printed order: methods missing from another would come last otherwise.
    methods = max(blocks, key=len)
    assert set(methods) == set(paper["method"])
    texts = {(row.method, row.model): plus_minus(row.mean, row.std) for row in paper.itertuples()}
    return {
        "models": models,
        "lines": [{"method": m, "cells": [texts.get((m, model), NOTHING) for model in models]} for m in methods],
    }
