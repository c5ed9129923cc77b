"""Tens of thousands of classes and pictures: no loop over all pairs, no line that scrolls, one class refused."""

import logging
import time

import numpy as np
import pytest

from ims3core.errors import LONGEST, DataError, some
from ims3core.ingest import classes, prepare
from ims3core.ingest.listing import Listing, folder_names

MANY = 40_000
QUICK = 6  # seconds; loops over all pairs of 40,000 names take half a minute


@pytest.fixture(autouse=True)
def quick():
    start = time.process_time()
    yield
    assert time.process_time() - start < QUICK


def npz(tmp_path, labels, **more):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=labels, **more)
    return {"data__source": "npz", "data__path": str(tmp_path / "x.npz"), "data__side": 6, "eval__ipc": [1]}


def refusal(toy, tmp_path, **keys):
    from ims3core.pipeline import harness

    with pytest.raises(DataError) as error:
        harness.run("prepare", toy(**keys), tmp_path)
    assert len(str(error.value)) <= LONGEST
    return str(error.value)


def test_names_and_lists_of_many_classes(tmp_path):
    """Folders, a class table and a class list; the last name is the double one."""
    names = [f"class {n}" for n in range(MANY)]
    assert len(folder_names(names, where="x")) == MANY
    with pytest.raises(DataError, match="'class 7' and 'class_7' would share the folder 'class_7'"):
        folder_names([*names, "class_7"], where="x")
    (tmp_path / "c.csv").write_text("\n".join(["folder", *names]) + "\n")
    assert len(classes.class_table(names, str(tmp_path / "c.csv"), trained=True)) == MANY
    with pytest.raises(DataError, match="39999 of 40000 classes have no folder: class 1, ") as error:
        classes.class_table(["class 0"], str(tmp_path / "c.csv"), trained=True)
    assert len(str(error.value)) <= LONGEST


def test_a_label_far_above_the_others_is_a_short_line(toy, tmp_path, caplog):
    text = refusal(toy, tmp_path, **npz(tmp_path, np.r_[np.arange(40) % 2, 19_998]))
    assert "19,996 of 19,999 classes have no image and are left out: 2, 3, 4, 5, 6 and 19,991 more" in caplog.text
    assert "class 19998 has 1 distinct images" in text


def test_a_table_of_unused_names_is_a_short_line(toy, tmp_path):
    names = np.array([f"a rather long name of the class with the number {n}" for n in range(1000)])
    (tmp_path / "c.csv").write_text("\n".join(["folder", *names]) + "\n")
    keys = npz(tmp_path, np.arange(40) % 2, class_names=names)
    text = refusal(toy, tmp_path, **keys, data__classes=str(tmp_path / "c.csv"))
    assert "998 of 1,000 classes have no image" in text


@pytest.mark.parametrize("label", [0, 3])
def test_one_label_throughout_is_refused(toy, tmp_path, label):
    assert f"x.npz: one class only, '{label}', wanted at least two" in refusal(
        toy, tmp_path, **npz(tmp_path, np.full(40, label))
    )


def test_a_list_of_one_class_is_refused(toy, tmp_path):
    (tmp_path / "one.csv").write_text("folder\n1\n")
    text = refusal(toy, tmp_path, **npz(tmp_path, np.arange(40) % 2), data__classes=str(tmp_path / "one.csv"))
    assert "one.csv: one class only, '1', wanted at least two" in text


def test_thousands_of_unreadable_pictures_are_one_line(tmp_path, monkeypatch, caplog):
    """One warning with the count, where they are left out; all are in a file."""
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 6, 6), dtype=np.uint8)
    listing = Listing(
        ["a", "b"], [*pictures, *[b"x"] * 3000], np.arange(3002) % 2, ["all"] * 3002, [f"n{n}" for n in range(3002)]
    )
    with caplog.at_level(logging.WARNING):
        _, rows, _ = prepare.decode_listing(listing, None, side=6, channels=1, workers=1, skip_unreadable=True)
    assert rows.tolist() == [0, 1]
    assert len(caplog.messages) == 1
    assert "3000 of 3002 images" in caplog.messages[0]
    assert len((tmp_path / "scratch/unreadable.txt").read_text().splitlines()) == 3000


def test_a_line_is_never_longer_than_a_screen():
    """The beginning, which names the culprit, and the end, which says what helps, stay."""
    text = str(DataError(f"data.path: {'x' * 5000}; wanted less"))
    assert len(text) <= LONGEST
    assert text.startswith("data.path: xxx") and text.endswith("; wanted less")
    assert some(["a", "y" * 900, *range(1000)], 3) == f"a, {'y' * 30}...{'y' * 27}, 0 and 999 more"
