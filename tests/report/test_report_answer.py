"""The answer in a few sentences: what reaches what, how many would nearly do, which classes are hard."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ims3core.base import files
from ims3core.report import answer, artifacts, data, figures
from ims3core.report.answer import Answer, Point


def points(*pairs):
    return [Point(ipc, mean, math.nan) for ipc, mean in pairs]


@pytest.mark.parametrize(
    ("tried", "wanted"),
    [
        ([(1, 30), (10, 54)], "about 10"),  # 54 is 0.9 x 60
        ([(1, 34), (10, 54), (50, 56)], "about 10"),
        ([(1, 44), (100, 64)], "about 10"),  # halfway in accuracy is halfway between the logarithms
        ([(1, 20), (50, 53.9)], "more than 50"),
        ([(1, 54), (10, 58)], "1"),
        ([(5, 55), (10, 58)], "5 or fewer"),
        ([(1, 40), (10, 53), (50, 53.5), (100, 80)], "about 51"),
    ],
)
def test_how_many_images_would_nearly_do(tried, wanted):
    """The first crossing of 90 % of full data, on straight lines over the logarithm; rounded up."""
    assert answer.nearly_enough(points(*tried), 60.0) == wanted


def test_a_class_counts_its_own_images_and_the_hardest_comes_first():
    """By hand: 1 of 4, 3 of 3, 0 of none."""
    shares = answer.class_shares([[1, 3, 0], [0, 3, 0], [0, 0, 0]], ["ant", "bee", "cat"])
    assert shares == [("cat", 0.0), ("ant", 25.0), ("bee", 100.0)]


def test_the_sentences_are_for_people_who_know_no_ipc():
    """One image and several, an interval where there is one, random images where they are another row."""
    one = Answer("ims3_plus", points((1, 54.0)), [], 60.4, 8522, [("a", 10.0), ("b", 20.0)])
    assert one.headline == "1 image per class reaches 54 % where all 8,522 reach 60 %."
    assert one.sentences == [
        "They are those of IMS3+, the best row here.",
        "More than 1 images per class would reach 90 % of what all images do (54 %).",
        "Hardest to recognise: a (10 %); easiest: b (20 %).",
    ]
    assert Answer("dit", points((1, 55.0)), [], 60.4, 9, one.classes).sentences[1].startswith("1 image per class would")
    several = Answer(
        "ims3_plus",
        [Point(1, 30, 3), Point(10, 56, 1.26)],
        points((1, 20), (10, 41)),
        60.0,
        900,
        [("a", 1.0), ("b", 2.0)],
    )
    assert several.headline == "10 images per class reach 56 % where all 900 reach 60 %."
    assert several.sentences[0].endswith(
        "the best row here, ± 1.3 (95 % interval over drawn sets); as many random ones reach 41 %."
    )
    assert several.sentences[1] == "About 9 images per class would reach 90 % of what all images do (54 %)."


def test_the_numbers_are_those_of_the_results(tree, make_params):
    """The best row's own cells, the first student's, with the interval of the comparisons; full data from its own cell."""
    params = make_params()
    told, read = answer.answer(data.read(params, tree)), data.read(params, tree)
    runs = read.runs[
        (read.runs["student"] == "convnet") & (read.runs["ipc"] == "4") & (read.runs["method"] == told.method)
    ]
    sets = runs.groupby("draw")["last_top1"].mean().tolist()
    assert (told.method, [point.ipc for point in told.points], told.images) == (read.best, [1, 4], 24)
    assert told.points[-1].mean == pytest.approx(sum(sets) / 2)
    assert told.points[-1].half_width == pytest.approx(12.706 * abs(sets[0] - sets[1]) / 2, rel=1e-3)
    full = files.read_json(tree / "metrics/full_data/convnet-steps.json", artifacts.Cell)
    assert told.full == pytest.approx(sum(run.last_top1 for run in full.runs) / len(full.runs))


def test_the_curve_shows_all_it_is_given(monkeypatch):
    """Another line of all images, no random ones, or another interval is another picture; the same is the same."""
    monkeypatch.setattr(figures, "DPI", 40)
    told = Answer("dit", [Point(1, 30, 3), Point(10, 56, 1)], points((1, 20), (10, 41)), 60.0, 9, [("a", 1.0)])
    others = (
        replace(told, full=70.0), replace(told, random=[]), replace(told, points=[Point(1, 30, 9), Point(10, 56, 1)]),
        replace(told, method="ims3"),
    )  # fmt: skip
    drawn = [figures.curve(one) for one in (told, told, *others)]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 5


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "digits"),
        ({"path": "/home/me/birds"}, "birds"),
        ({"path": "a/b.npz"}, "b"),
        ({"name": "CIFAR10"}, "CIFAR10"),
    ],
)
def test_the_data_set_is_called_by_what_people_know(make_params, changes, wanted):
    """Its name, its folder or file, else the source."""
    assert data.dataset_name(make_params().data.model_copy(update=changes)) == wanted
