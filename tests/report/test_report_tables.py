"""The numbers of the report against slow, obvious computations."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ims3core.report import published, tables
from ims3core.report.artifacts import Cell, Choice, Run, SelectionReport

percents = st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 4))


def make_cell(scores: list[list[float]], *, method: str = "dit", ipc: int | str = 1) -> Cell:
    """A cell with ``scores[draw][seed]`` as last epochs; the best epoch and the curve follow from them."""
    runs = [
        Run(
            draw=d, seed=s, last_top1=top1, best_top1=min(100.0, top1 + s), curve=[(20, 0.5, top1), (10, 1.0, top1 / 2)]
        )
        for d, row in enumerate(scores)
        for s, top1 in enumerate(row)
    ]
    facts = {"method": method, "ipc": ipc, "student": "convnet", "protocol": "steps", "split": "test"}
    facts |= {"precision": "fp32", "draws": len(scores), "seeds": len(scores[0])}
    return Cell(**facts, classes=["ant", "bee"], confusion=[[3, 1], [0, 4]], runs=runs[::-1])


def deviation(values: list[float]) -> float:
    """The sample standard deviation, NaN for one value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


class TestSummary:
    @settings(max_examples=30, deadline=None)
    @given(
        st.integers(1, 3).flatmap(
            lambda seeds: st.lists(st.lists(percents, min_size=seeds, max_size=seeds), min_size=1, max_size=3)
        )
    )
    def test_agrees_with_the_definitions(self, scores):
        """Means and the three spreads equal those computed run by run."""
        row = tables.summary(tables.runs([make_cell(scores)])).iloc[0]

        flat = list(itertools.chain(*scores))
        best = [min(100.0, top1 + seed) for run in scores for seed, top1 in enumerate(run)]
        wanted = {
            "mean": statistics.fmean(flat),
            "std": deviation(flat),
            "std_sets": deviation([statistics.fmean(run) for run in scores]),
            "std_seeds": statistics.fmean([deviation(run) for run in scores]),
            "best_mean": statistics.fmean(best),
            "best_std": deviation(best),
        }
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name

    def test_keeps_the_order_of_the_grid(self):
        """Rows come in the order of the cells, not of the alphabet."""
        cells = [make_cell([[50.0]], method=m, ipc=k) for m in ("random", "dit") for k in (10, 1)]

        found = tables.summary(tables.runs(cells))

        assert list(zip(found["method"], found["ipc"], strict=True)) == [
            ("random", "10"), ("random", "1"), ("dit", "10"), ("dit", "1"),
        ]  # fmt: skip

    def test_attributes_a_spread_between_sets_to_the_sets(self):
        """Two sets that differ, each with students that agree: all spread is between sets, none between seeds."""
        row = tables.summary(tables.runs([make_cell([[40.0, 40.0], [50.0, 50.0]])])).iloc[0]

        assert row["std_seeds"] == 0
        assert row["std_sets"] == pytest.approx(np.sqrt(50))


def test_runs_are_sorted_and_carry_every_column():
    """One row per run in (draw, seed) order, with the columns that metrics/accuracy.csv promises."""
    found = tables.runs([make_cell([[1.0, 2.0], [3.0, 4.0]])])

    assert list(found) == ["method", "ipc", "student", "protocol", "draw", "seed", "last_top1", "best_top1"]
    assert found["last_top1"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found[["draw", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_accuracy_tree_holds_rounded_means():
    """Method, IPC and student lead to the mean with two decimals; the upper bound stands under "full"."""
    cells = [make_cell([[50.0, 50.333]], ipc=10), make_cell([[99.0]], method="full", ipc="full")]

    tree = tables.accuracy_tree(tables.summary(tables.runs(cells)))

    assert tree == {"steps": {"dit": {"ipc-10": {"convnet": 50.17}}, "full": {"full": {"convnet": 99.0}}}}


def test_student_curves_average_over_runs_in_step_order():
    """One value per step: the mean over all runs, steps ascending even where a log is not."""
    found = tables.student_curves([make_cell([[40.0, 60.0]], method="ims3"), make_cell([[10.0]], method="dit")])

    assert found.to_numpy().tolist() == [
        ["ims3", "1", "convnet", "steps", 10, 25.0],
        ["ims3", "1", "convnet", "steps", 20, 50.0],
        ["dit", "1", "convnet", "steps", 10, 5.0],
        ["dit", "1", "convnet", "steps", 20, 10.0],
    ]


def test_training_curves_keep_their_names():
    """Curves are stacked with the name of their training in front."""
    curve = pd.DataFrame({"step": [0, 1], "series": ["im", "im"], "value": [2.0, 1.0]})

    found = tables.training_curves({"generator": curve, "im": curve})

    assert list(found) == ["training", "step", "series", "value"]
    assert found["training"].tolist() == ["generator", "generator", "im", "im"]


def test_confusion_rows_count_every_decision():
    """Counting the rows of each pair gives the matrix back."""
    found = tables.confusion_rows(make_cell([[1.0]]))

    pairs = list(zip(found["actual"], found["predicted"], strict=True))
    assert [[pairs.count((a, p)) for p in ("ant", "bee")] for a in ("ant", "bee")] == [[3, 1], [0, 4]]


def test_selections_list_every_set_of_the_wanted_ipcs():
    """Rows follow IPC and draw; what a selection does not report is an empty cell."""
    choices = [Choice(draw=1, closeness=-1.0, separation=-2.0), Choice(draw=0, objective=-3.0, sweeps=2)]
    report = SelectionReport(
        method="s3", pool="dit", selection="s3", deterministic=False, cells={"1": choices, "10": choices[:1]}
    )

    found = tables.selections([report], ipcs=[1])

    assert tables.csv_text(found) == (
        "method,ipc,draw,pool,selection,objective,closeness,separation,bound,bound_kind,gap,sweeps\n"
        "s3,1,0,dit,s3,-3,,,,,,2\n"
        "s3,1,1,dit,s3,,-1,-2,,,,\n"
    )


class TestEvenlySpaced:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 12))
    def test_takes_as_many_as_there_are(self, labels, per_class):
        """Each class gives min(per_class, its size) different images of its own."""
        labels = np.array(labels)

        rows = tables.evenly_spaced(labels, per_class=per_class)

        assert len(set(rows.tolist())) == len(rows)
        for value in set(labels.tolist()):
            assert (labels[rows] == value).sum() == min(per_class, (labels == value).sum())

    def test_spreads_over_the_whole_order(self):
        """Three of nine images are the first, fourth and seventh."""
        assert tables.evenly_spaced(np.zeros(9, int), per_class=3).tolist() == [0, 3, 6]


class TestTsne:
    def groups(self):
        """Two well separated classes, as a real group and a distilled one."""
        rng = np.random.default_rng(3)
        index = np.arange(24) % 2
        features = np.eye(4)[index] + 0.05 * rng.normal(size=(24, 4))
        return {"real": (features[:16], index[:16]), "dit": (features[16:], index[16:])}

    def test_repeats_bit_for_bit(self):
        """The same features give the same plane."""
        first, second = (tables.tsne(self.groups(), classes=["ant", "bee"]) for _ in range(2))

        pd.testing.assert_frame_equal(first, second, check_exact=True)

    def test_labels_points_by_group_and_class(self):
        """Points keep their group and class, and separated classes stay separated in the plane."""
        plane = tables.tsne(self.groups(), classes=["ant", "bee"])

        assert plane["kind"].tolist() == ["real"] * 16 + ["dit"] * 8
        assert plane["class"].tolist() == ["ant", "bee"] * 12
        points = plane[["x", "y"]].to_numpy()
        distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag([np.inf] * 24)
        assert (np.arange(24) % 2 == distance.argmin(axis=1) % 2).all()


def test_paper_rows_are_those_of_table_1():
    """The paper's ImageWoof IPC 10 block: three students, IMS3 on ResNetAP-10 at 41.8 ± 0.3."""
    found = tables.paper_rows(dataset="ImageWoof", ipc=10)

    assert found["model"].unique().tolist() == ["ConvNet-6", "ResNetAP-10", "ResNet-18"]
    row = found[(found["method"] == "IMS3") & (found["model"] == "ResNetAP-10")]
    assert row[["mean", "std"]].to_numpy().tolist() == [[41.8, 0.3]]


def test_labels_leave_unknown_rows_alone():
    """Known rows print as in the paper; a row of the user's own keeps its name."""
    assert [published.label(name) for name in ("k_center", "dit", "my_row")] == ["K-Center", "DiT", "my_row"]
