"""What came out in a few sentences, for readers who know neither the paper nor its words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ims3core.report.artifacts import FULL
from ims3core.report.published import label
from ims3core.report.statistics import interval, set_scores

if TYPE_CHECKING:
    import pandas as pd

    from ims3core.report.data import ReportData

NEARLY = 0.9  # of what all images reach: how many images per class would do
HARDEST = 3  # classes that the sentences name
LISTED = 20  # classes whose share is listed, the hardest first


@dataclass(frozen=True)
class Point:
    """Mean accuracy at so many images per class, and the half-width of its 95 % interval (NaN: none)."""

    ipc: int
    mean: float
    half_width: float


@dataclass(frozen=True)
class Answer:
    """The best row against all images, under the first student and protocol.

    Attributes:
        method: the row; ``points`` are its accuracies, from few images per class to many.
        random: those of random images, where that is another row of the table.
        full: accuracy with all ``images`` training images.
        classes: every class with the percentage of its test images that are recognised, hardest first.
    """

    method: str
    points: list[Point]
    random: list[Point]
    full: float
    images: int
    classes: list[tuple[str, float]]

    @property
    def headline(self) -> str:
        """The one sentence."""
        last = self.points[-1]
        return (
            f"{last.ipc} image{'' if last.ipc == 1 else 's'} per class reach{'es' if last.ipc == 1 else ''} "
            f"{last.mean:.0f} % where all {self.images:,} reach {self.full:.0f} %."
        )

    @property
    def sentences(self) -> list[str]:
        """What one asks next: how sure, against random ones, how many would nearly do, which classes are hard."""
        last, count = self.points[-1], len(self.classes)
        made = f"They are those of {label(self.method)}, the best row here"
        sure = "" if math.isnan(last.half_width) else f", ± {last.half_width:.1f} (95 % interval over drawn sets)"
        beside = f"; as many random ones reach {self.random[-1].mean:.0f} %" if self.random else ""
        needed = nearly_enough(self.points, self.full)
        told = f"{needed} image{'' if needed == '1' else 's'} per class would reach {100 * NEARLY:.0f} %"
        hard = ", ".join(f"{name} ({share:.0f} %)" for name, share in self.classes[: min(HARDEST, count - 1)])
        easy, share = self.classes[-1]
        return [
            f"{made}{sure}{beside}.",
            f"{told[0].upper()}{told[1:]} of what all images do ({NEARLY * self.full:.0f} %).",
            f"Hardest to recognise: {hard}; easiest: {easy} ({share:.0f} %).",
        ]  # fmt: skip


def answer(data: ReportData) -> Answer:
    """What the results say of the best row."""
    student, protocol = data.grid.students[0], data.grid.protocols[0]
    runs = data.runs[(data.runs["student"] == student) & (data.runs["protocol"] == protocol)]
    full = float(runs.loc[runs["method"] == FULL, "last_top1"].mean())
    best = data.best
    cell = data.results.cell(best, data.largest, student, protocol)
    return Answer(
        best, points(runs, best, data.fixed), points(runs, "random", data.fixed) if best != "random" else [], full,
        int(data.costs["real_images"].max()), class_shares(cell.confusion, data.names),
    )  # fmt: skip


def points(runs: pd.DataFrame, method: str, fixed: Sequence[str]) -> list[Point]:
    """The accuracies of ``method`` by IPC, each over its drawn sets; none where there is no such row."""
    scores = set_scores(runs[runs["method"] == method], fixed=fixed)
    found = [Point(int(key[1]), *interval(values)) for key, values in scores.items()]
    return sorted(found, key=lambda point: point.ipc)


def nearly_enough(points: Sequence[Point], full: float) -> str:
    """How many images per class reach :data:`NEARLY` of ``full``: "about 7", "1" or "more than 50".

    Between two numbers that were tried accuracy is taken to grow with the logarithm of the number.
    """
    wanted = NEARLY * full
    reached = next((n for n, point in enumerate(points) if point.mean >= wanted), None)
    if reached is None:
        return f"more than {points[-1].ipc}"
    if reached == 0:
        return str(points[0].ipc) if points[0].ipc == 1 else f"{points[0].ipc} or fewer"
    low, high = points[reached - 1], points[reached]
    share = (wanted - low.mean) / (high.mean - low.mean)
    return f"about {math.ceil(low.ipc * (high.ipc / low.ipc) ** share - 1e-9)}"


def class_shares(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[tuple[str, float]]:
    """Every class with the percentage of its images that are recognised (its recall), hardest first."""
    counts = np.array(confusion)
    shares = 100 * counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    return [(names[n], float(shares[n])) for n in np.argsort(shares, kind="stable")]
