"""DD-Ranking's scores, against their definitions worked out by hand."""

import math

import pandas as pd
import pytest

from ims3core.report import ddranking


def test_scores_stay_in_the_unit_interval():
    """The ends of the scale, and the middle of nothing gained."""
    assert ddranking.score(-1) == 0
    assert ddranking.score(1) == 1
    assert ddranking.label_robust(0, 0) == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))


def test_a_row_is_scored_from_its_cells():
    """HLR from hard labels, IOR from its own protocol, ARS from the plain twin; a missing cell leaves nothing."""
    values = {
        ("random", "10", "hard"): 50, ("ims3", "10", "hard"): 60, ("full", "full", "hard"): 90,
        ("random", "10", "soft"): 55, ("ims3", "10", "soft"): 75, ("random", "10", "soft_plain"): 40, ("ims3", "10", "soft_plain"): 44,
    }  # fmt: skip
    rows = [(m, k, "convnet", p, float(v)) for (m, k, p), v in values.items()]
    summary = pd.DataFrame(rows, columns=["method", "ipc", "student", "protocol", "mean"])
    found = ddranking.frame(summary, {"hard": "hard", "soft": "teacher"}).set_index(["method", "protocol"])

    row = found.loc["ims3", "soft"]
    assert (row.hlr, row.ior) == pytest.approx((0.3, 0.2))
    assert row.lrs == pytest.approx(ddranking.score(0.5 * 0.2 - 0.5 * 0.3))
    assert row.ars == pytest.approx(ddranking.score(0.5 * 0.2 + 0.5 * 0.04))
    assert math.isnan(found.loc["ims3", "hard"].ars)
    assert found.loc["random", "soft"].ior == 0
