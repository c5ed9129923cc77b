"""What is distinguishable: paired differences over drawn sets with 95 % t-intervals, and a word for each.

The unit is the drawn set: the mean over its student seeds. A deterministic row is one set, however many draws.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import pandas as pd
from scipy.stats import t as student_t

CONFIDENCE = 0.95
ROUNDING = 1e-3  # points: scores are kept to four decimals
FLOOR = "dit"  # where the gap to full data begins


def gap_share(score: float, *, floor: float, full: float) -> float:
    """How much of the gap from ``floor`` to ``full`` data a score closes, %; NaN where there is no gap."""
    return 100 * (score - floor) / (full - floor) if full > floor else math.nan


class Difference(NamedTuple):
    """Mean difference in points, half-width of its interval (NaN: none can be given), and the verdict."""

    mean: float
    half_width: float
    verdict: str


def widest(ipc: int) -> float:
    """Points of half-width of an accuracy beyond which nothing is decided."""
    return 2.0 if ipc == 1 else 1.0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of ``values`` and the half-width of its 95 % t-interval; NaN for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / math.sqrt(count)


def difference(scores: Sequence[float], others: Sequence[float], *, widest: float) -> Difference:
    """One row less another: set by set where both have as many, else a single set against the spread of the other.

    Args:
        scores, others: scores of drawn sets, in the order of the draws; one of a deterministic row.
        widest: half-width beyond which nothing is decided.
    """
    if len(scores) == len(others):
        differences = [a - b for a, b in zip(scores, others, strict=True)]
        mean, half = interval(differences)
    elif min(len(scores), len(others)) == 1:
        (mean_a, half_a), (mean_b, half_b) = interval(scores), interval(others)
        mean, half = mean_a - mean_b, half_b if math.isnan(half_a) else half_a
        differences = [a - b for a in scores for b in others]
    else:
        raise ValueError(f"found {len(scores)} and {len(others)} sets, wanted as many, or a single one")
    if abs(mean) > ROUNDING and max(differences) - min(differences) < ROUNDING:
        half = math.nan  # scores are whole images: equal differences show nothing of the spread
    return Difference(mean, half, verdict(mean, half, widest=widest))


def verdict(mean: float, half_width: float, *, widest: float) -> str:
    """``better`` or ``worse`` where 0 is outside the interval, ``undecided`` where that is too wide to say more."""
    if abs(mean) > half_width:
        return "better" if mean > 0 else "worse"
    return "undecided" if math.isnan(half_width) or half_width > widest else "not distinguishable"


def set_scores(runs: pd.DataFrame, *, fixed: Collection[str]) -> dict[tuple[str, str, str, str], list[float]]:
    """(method, IPC, student, protocol) -> the scores of its drawn sets; one for a method in ``fixed``."""
    means = runs.groupby(["method", "ipc", "student", "protocol", "draw"], sort=False)["last_top1"].mean()
    scores: dict[tuple[str, str, str, str], list[float]] = {}
    for (*cell, _draw), value in means.items():
        scores.setdefault(tuple(cell), []).append(float(value))
    return {cell: [math.fsum(v) / len(v)] if cell[0] in fixed else v for cell, v in scores.items()}


def comparisons(runs: pd.DataFrame, *, others: Sequence[str], fixed: Collection[str]) -> pd.DataFrame:
    """Every row against each of ``others``: the columns of a cell, other, difference, half_width, sets, verdict."""
    scores = set_scores(runs, fixed=fixed)
    rows = []
    for (method, ipc, student, protocol), values in scores.items():
        for other in others:
            reference = scores.get((other, ipc, student, protocol))
            if other != method and reference is not None:
                mean, half, word = difference(values, reference, widest=widest(int(ipc)))
                rows.append((method, ipc, student, protocol, other, mean, half, len(values), word))
    columns = ["method", "ipc", "student", "protocol", "other", "difference", "half_width", "sets", "verdict"]
    return pd.DataFrame(rows, columns=columns)
