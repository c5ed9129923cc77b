"""The result of a study in sentences made from its numbers: differences over drawn sets with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ims3core.report import statistics

if TYPE_CHECKING:
    from ims3core.studies.definitions import Study

FEW = 4  # so many alternatives are all named; of more, the highest and the lowest
UNITS = {
    "accuracy": "points",
    "gap": "% of the gap",
    "precision": "points",
    "recall": "points",
    "coverage": "points",
    "recognised": "points",
}


class Value(NamedTuple):
    """One mean over drawn sets with the half-width of its 95 % interval (NaN for a single set)."""

    mean: float
    half_width: float
    sets: list[float]


def drawn_measures(study: Study, frame: pd.DataFrame) -> list[str]:
    """The measures that are drawn and have sentences, in order."""
    measured = list(dict.fromkeys(frame["metric"]))
    return [name for name in study.show if name in measured] if study.show else measured


def setting_names(frame: pd.DataFrame, labels: Sequence[str]) -> pd.Series:
    """One name per line for the setting it belongs to: its value, or keys with values where several vary."""
    if len(labels) == 1:
        return frame[labels[0]]
    return frame[list(labels)].apply(lambda line: ", ".join(f"{k} {v}" for k, v in line.items()), axis=1)


def values(frame: pd.DataFrame, by: Sequence[str]) -> dict[tuple, Value]:
    """Means over drawn sets, a set being the mean over its student seeds, grouped by the columns ``by``."""
    sets = frame.groupby([*by, "draw"], sort=False)["value"].mean()
    groups: dict[tuple, list[float]] = {}
    for (*group, _draw), value in sets.items():
        groups.setdefault(tuple(group), []).append(float(value))
    return {group: Value(*statistics.interval(means), means) for group, means in groups.items()}


def sentences(study: Study, frame: pd.DataFrame) -> list[str]:
    """One sentence per measure, row and IPC: settings against the first setting, or rows against the first row."""
    texts = []
    frame = frame.assign(setting=setting_names(frame, study.labels) if study.labels else "")
    for metric in drawn_measures(study, frame):
        measured = frame[frame["metric"] == metric]
        for ipc in dict.fromkeys(measured["ipc"]):
            lines = measured[measured["ipc"] == ipc]
            where = f"{metric}" if ipc == "" else f"{metric}, IPC {ipc}"
            if not study.labels:
                texts.append(_against_first(where, values(lines, ["row"]), metric, ipc))
                continue
            for row in dict.fromkeys(lines["row"]):
                settings = values(lines[lines["row"] == row], ["setting"])
                texts.append(_against_first(f"{row}, {where}", settings, metric, ipc))
    return texts


def _against_first(where: str, alternatives: dict[tuple, Value], metric: str, ipc: str) -> str:
    """The alternatives against the first of them."""
    (first, *others) = alternatives.items()
    unit = f" {UNITS[metric]}" if metric in UNITS else ""
    text = f"{where}: {first[0][0]} {spread(first[1])}"
    if not others:
        return text + "."
    if len(others) > FEW:
        ordered = sorted(others, key=lambda item: item[1].mean)
        others, text = [ordered[-1], ordered[0]], f"{text}; highest and lowest of {len(alternatives) - 1} others:"
        return f"{text} {'; '.join(_difference(name[0], value, first[1], unit, ipc) for name, value in others)}."
    return f"{text}; {'; '.join(_difference(name[0], value, first[1], unit, ipc) for name, value in others)}."


def _difference(name: str, value: Value, first: Value, unit: str, ipc: str) -> str:
    if len(value.sets) != len(first.sets) and min(len(value.sets), len(first.sets)) > 1:
        return f"{name} {spread(value)}"
    # The limit beyond which nothing is decided is in points of accuracy; a share of a gap has no such limit.
    widest = statistics.widest(int(ipc or 1)) if unit != f" {UNITS['gap']}" else math.inf
    mean, half, verdict = statistics.difference(value.sets, first.sets, widest=widest)
    if math.isnan(half) and len(value.sets) == len(first.sets) > 1:
        return f"{name} {mean:+.2f}{unit} in every set"
    if math.isnan(half):
        return f"{name} {_number(value.mean)}"
    word = {"better": "higher", "worse": "lower"}.get(verdict, verdict)
    return f"{name} {mean:+.2f} ± {half:.2f}{unit}, {word}"


def spread(value: Value) -> str:
    """Text like "91.3 ± 0.8"; the ± is the half-width of a 95 % interval over drawn sets."""
    if math.isnan(value.half_width) or value.half_width == 0:
        return _number(value.mean)
    return f"{value.mean:.2f} ± {value.half_width:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
