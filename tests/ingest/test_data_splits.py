"""Splits: disjoint in content, stratified, complete; what a source brings stays."""

import numpy as np
import pytest

from ims3core.errors import DataError
from ims3core.ingest import splits

FRACTIONS = {"validation_fraction": 0.1, "test_fraction": 0.2}


def assign(labels, digests=None, brought="all", **changes):
    labels = np.asarray(labels)
    digests = digests or [str(n) for n in range(len(labels))]
    brought = [brought] * len(labels) if isinstance(brought, str) else brought
    names = [f"class{n}" for n in range(labels.max() + 1)]
    return splits.assign(labels, digests, names, brought=brought, seed=0, **{**FRACTIONS, **changes})


def test_three_ways_stratified_and_complete():
    """Nothing is lost, nothing occurs twice, every class keeps its share."""
    labels = np.arange(1000) % 5
    members = assign(labels)

    assert sorted(np.concatenate(list(members.values())).tolist()) == list(range(1000))
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert np.abs(np.bincount(labels[members[name]]) - 200 * share).max() <= 2


def test_equal_images_stay_on_one_side():
    """Twins move together, so that no test image is seen in training."""
    digests = [str(n) for n in range(60)] * 2
    members = assign(np.tile(np.arange(3).repeat(20), 2), digests, validation_fraction=0.2)

    assert splits.leaks(digests, members) == 0
    side = {row: name for name, rows in members.items() for row in rows.tolist()}
    assert all(side[row] == side[row + 60] for row in range(60))


def test_a_brought_test_split_stays_and_its_leaks_are_counted():
    """Validation comes out of train alone; a test image with a twin in train is counted, not moved."""
    digests = [str(n) for n in range(100)] + ["3", "4", *map(str, range(200, 208))]
    brought = ["train"] * 100 + ["test"] * 10
    members = assign(np.arange(110) % 2, digests, brought)

    assert members["test"].tolist() == list(range(100, 110))
    assert (len(members["train"]), len(members["validation"])) == (90, 10)
    assert splits.leaks(digests, members) == 2


def test_all_three_brought_splits_stay():
    """Nothing is drawn."""
    members = assign(np.arange(30) % 2, None, ["train"] * 10 + ["validation"] * 10 + ["test"] * 10)
    assert [rows.tolist() for rows in members.values()] == [list(range(a, a + 10)) for a in (0, 10, 20)]


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    """The split is a function of the seed."""
    labels, digests = np.arange(100) % 2, [str(n) for n in range(100)]
    common = {"brought": ["all"] * 100, **FRACTIONS}
    one, again, other = (
        splits.assign(labels, digests, ["a", "b"], seed=s, **common)["test"].tolist() for s in (0, 0, 1)
    )
    assert one == again != other


def test_too_small_a_class_is_named():
    """A class that cannot fill three splits is an error with its size."""
    with pytest.raises(DataError, match="class class1 has 2 distinct images, wanted at least 7"):
        assign([0] * 18 + [1] * 2, validation_fraction=0.2)


def test_fractions_that_leave_too_little_are_refused():
    """scikit-learn's complaint is passed on with the names of the keys."""
    with pytest.raises(DataError, match=r"data\.validation_fraction, data\.test_fraction: cannot split 9 images"):
        assign([0, 1, 2] * 3, validation_fraction=0.05, test_fraction=0.05)


def test_the_number_that_a_refusal_names_suffices():
    """Random fractions, sizes and IPC: with that many images of every class each split is filled."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        test, validation, ipc = rng.uniform(0.02, 0.45), rng.uniform(0.02, 0.45), int(rng.integers(1, 12))
        wanted = splits.enough(ipc, validation / (1 - test), test)
        sizes = wanted + rng.integers(0, 3, rng.integers(2, 6)) * rng.integers(0, 40)
        sizes[0] = wanted
        labels = np.repeat(np.arange(len(sizes)), sizes)
        members = assign(labels, validation_fraction=validation, test_fraction=test, ipc=ipc)
        assert min(np.bincount(labels[members["train"]], minlength=len(sizes))) >= ipc
        assert all(len(set(labels[rows])) == len(sizes) for rows in members.values())
        brought = assign(np.r_[labels, labels], brought=["train"] * len(labels) + ["test"] * len(labels),
                         validation_fraction=validation / (1 - test), ipc=ipc)  # fmt: skip
        assert min(np.bincount(labels[brought["train"]], minlength=len(sizes))) >= ipc


@pytest.mark.parametrize(
    ("sizes", "changes", "says"),
    [
        ([30, 4], {}, "class class1 has no (test|validation) image, wanted at least 12 images of it to divide"),
        ([30, 20], {"ipc": 20}, "eval.ipc: 20 images per class are asked for, class class1 has 14 to train on; wanted at least 32 images"),
        ([4, 4, 4], {"validation_fraction": 0.1, "test_fraction": 0.2}, "cannot split 12 images of 3 classes, wanted larger fractions, or at least 12 images a class"),
        ([9, 9], {"validation_fraction": 0.01, "test_fraction": 0.01}, "cannot split 18 images of 2 classes, wanted larger fractions, or at least 102 images a class"),
    ],
)  # fmt: skip
def test_what_is_wanted_is_enough(sizes, changes, says):
    """The refusal names a number; with it the same fractions divide."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(DataError, match=says) as error:
        assign(labels, **changes)
    wanted = int(str(error.value).split("at least ")[1].split()[0])
    assign(np.repeat(np.arange(len(sizes)), np.maximum(sizes, wanted)), **changes)


def test_one_part_of_a_class_is_at_least_its_share_rounded_down():
    """What `enough` rests on, on scikit-learn's own division: floor(s n) or more, n - ceil(s n) - 1 or more stay."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        labels, share = np.repeat(np.arange(4), rng.integers(5, 60, 4)), rng.uniform(0.05, 0.6)
        first, second = splits._divided(
            np.arange(len(labels)), labels, [str(n) for n in range(len(labels))], share, 0, 1
        )
        counts, drawn = np.bincount(labels), np.bincount(labels[second], minlength=4)
        assert (drawn >= np.floor(counts * share)).all()
        assert (counts - drawn >= counts - np.ceil(counts * share) - 1).all()


@pytest.mark.parametrize("shared", [20, 19])
def test_a_copy_of_a_class_is_said_to_be_one(shared):
    """Its pictures are counted, and the class that has them too is named."""
    digests = (
        [str(n) for n in range(40)]
        + [str(n) for n in range(20, 20 + shared)]
        + [str(n) for n in range(40, 60 - shared)]
    )
    with pytest.raises(
        DataError,
        match=f"class class2 has 20 distinct images, {shared} of them also in class class1 .*, wanted at least",
    ):
        assign(np.arange(60) // 20, digests)
