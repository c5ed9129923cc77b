"""What is distinguishable, against textbook formulas and simulated experiments."""

import math
import random
import statistics as plain

import pandas as pd
import pytest
from scipy import stats

from ims3core.report import statistics


def test_the_interval_is_scipys():
    """The 95 % t-interval of a mean."""
    values = [3.0, 5.5, 4.0, 6.5]
    low, high = stats.t.interval(0.95, 3, plain.fmean(values), stats.sem(values))
    mean, half = statistics.interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert math.isnan(statistics.interval([1.0])[1])


def test_the_paired_interval_covers_the_truth_in_95_of_100_experiments():
    """Simulated: sets that share noise between the rows, a true difference of 1 point."""
    rng, covered = random.Random(0), 0
    for _ in range(2000):
        shared = [rng.gauss(0, 3) for _ in range(5)]
        mine, other = ([level + s + rng.gauss(0, 1) for s in shared] for level in (51, 50))
        found = statistics.difference(mine, other, widest=2.0)
        covered += abs(found.mean - 1) <= found.half_width
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_single_set_is_compared_by_the_spread_of_the_other_row():
    """A deterministic row has no spread of its own."""
    found = statistics.difference([90.0], [80.0, 82.0, 84.0], widest=1.0)
    assert found.mean == pytest.approx(8)
    assert found.half_width == pytest.approx(statistics.interval([80.0, 82.0, 84.0])[1])
    assert statistics.difference([80.0, 82.0, 84.0], [90.0], widest=1.0)[:2] == pytest.approx((-8, found.half_width))
    assert statistics.difference([90.0], [80.0], widest=1.0).verdict == "undecided"
    with pytest.raises(ValueError, match="found 2 and 3 sets"):
        statistics.difference([1, 2], [1, 2, 3], widest=2.0)


@pytest.mark.parametrize(
    ("mean", "half", "ipc", "wanted"),
    [
        (3.0, 2.5, 1, "better"), (-1.0, 0.5, 10, "worse"), (0.5, 1.9, 1, "not distinguishable"),
        (0.5, 2.1, 1, "undecided"), (0.5, 0.9, 10, "not distinguishable"), (0.5, 1.1, 10, "undecided"),
        (5.0, float("nan"), 10, "undecided"),
    ],
)  # fmt: skip
def test_the_verdict_follows_interval_and_width(mean, half, ipc, wanted):
    """Wider than 2 points at IPC 1, or 1 point beyond, decides nothing unless 0 is outside."""
    assert statistics.verdict(mean, half, widest=statistics.widest(ipc)) == wanted


def test_rows_are_compared_set_by_set():
    """Student seeds are averaged first; a fixed row counts as one set however many draws it has."""
    rows = [
        (m, "10", "convnet", "steps", d, s, v)
        for m, values in {"random": [[80, 82], [84, 86]], "ims3": [[83, 83], [87, 89]], "herding": [[90, 91], [92, 93]]}.items()
        for d, seeds in enumerate(values) for s, v in enumerate(seeds)
    ]  # fmt: skip
    runs = pd.DataFrame(rows, columns=["method", "ipc", "student", "protocol", "draw", "seed", "last_top1"])
    found = statistics.comparisons(runs, others=["random"], fixed=["herding"]).set_index("method")

    assert found.loc["ims3", "difference"] == pytest.approx((83 - 81 + 88 - 85) / 2)
    assert found.loc["ims3", "half_width"] == pytest.approx(statistics.interval([2.0, 3.0])[1])
    assert found.loc["herding", "difference"] == pytest.approx(91.5 - 83)
    assert found.loc["herding", "sets"] == 1
    assert "random" not in found.index


def test_every_ipc_has_its_own_width():
    """The same scores, half a point apart within 1.5: at IPC 1 no difference can be seen, at IPC 10 it is too wide."""
    rows = [
        (method, ipc, "convnet", "steps", draw, 0, value)
        for ipc in ("1", "10")
        for method, values in {"random": [80, 80, 80], "ims3": [80, 80.5, 81.2]}.items()
        for draw, value in enumerate(values)
    ]
    runs = pd.DataFrame(rows, columns=["method", "ipc", "student", "protocol", "draw", "seed", "last_top1"])
    found = statistics.comparisons(runs, others=["random"], fixed=[]).set_index("ipc")
    assert 1 < found.loc["1", "half_width"] < 2
    assert found["verdict"].to_dict() == {"1": "not distinguishable", "10": "undecided"}


def test_equal_differences_show_no_spread():
    """Sets that are one of 360 test images better each decide nothing, as scores are kept; equal sets are equal."""
    images = [[round(100 * n / 360, 4) for n in own] for own in ((325, 328, 330), (323, 326, 328))]
    for mine, other in ((*images,), ([images[0][0]], [images[1][0]] * 3)):
        found = statistics.difference(mine, other, widest=1.0)
        assert found.mean == pytest.approx(0.5556, abs=1e-4)
        assert math.isnan(found.half_width) and found.verdict == "undecided"
    assert statistics.difference([90, 91], [90, 91], widest=1.0) == (0, 0, "not distinguishable")
