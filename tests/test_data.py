"""The real data: digits, splits, class table."""

import pytest
import torch

from ims3core import data, pools
from ims3core.errors import ArtifactError, DataError


@pytest.fixture(scope="module")
def digits():
    return data.load_source("digits")


def test_the_embedded_data_set_is_complete(digits):
    """1,797 images of 8x8 pixels in 10 classes, full range."""
    images, names = digits
    assert images.images.shape == (1797, 1, 8, 8)
    assert (images.images.min(), images.images.max()) == (0, 255)
    assert names == [str(n) for n in range(10)]


def test_splits_are_disjoint_in_content_stratified_and_complete(digits):
    """No pixels occur in two splits, every class keeps its share, nothing is lost."""
    images, _ = digits
    members = data.split(images, validation_fraction=0.1, test_fraction=0.2, seed=0)
    hashes = [set(data.content_hashes(images.images[rows])) for rows in members.values()]

    assert not (hashes[0] & hashes[1] or hashes[0] & hashes[2] or hashes[1] & hashes[2])
    assert sorted(torch.cat(list(members.values())).tolist()) == list(range(1797))
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        counts = torch.bincount(images.class_index[members[name]])
        expected = torch.bincount(images.class_index) * share
        assert (counts - expected).abs().max() <= 2


def test_equal_images_stay_on_one_side():
    """Twins move together, so that no test image is seen in training."""
    base = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8)
    images = data.ImageSet(torch.cat([base, base]), torch.arange(3).repeat(40))

    members = data.split(images, validation_fraction=0.2, test_fraction=0.2, seed=1)

    side = {row: name for name, rows in members.items() for row in rows.tolist()}
    assert all(side[row] == side[row + 60] for row in range(60))


def test_too_small_a_class_is_named():
    """A class that cannot fill three splits is an error with its size."""
    images = data.ImageSet(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1), torch.tensor([0] * 18 + [1] * 2))
    with pytest.raises(DataError, match="class 1 has 2 distinct images, wanted at least 3"):
        data.split(images, validation_fraction=0.2, test_fraction=0.2, seed=0)


def test_fractions_that_leave_too_little_are_refused():
    """scikit-learn's complaint is passed on with the names of the keys."""
    images = data.ImageSet(torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1), torch.arange(3).repeat(3))
    with pytest.raises(DataError, match=r"data\.validation_fraction, data\.test_fraction: cannot split 9 images"):
        data.split(images, validation_fraction=0.05, test_fraction=0.05, seed=0)


def test_an_empty_class_and_an_unknown_source_are_named(monkeypatch):
    """Both errors hold what was found."""
    empty = data.ImageSet(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 0]))
    monkeypatch.setitem(data.SOURCES, "hole", lambda: (empty, ["full", "void"]))
    with pytest.raises(DataError, match="class void has no image"):
        data.load_source("hole")
    with pytest.raises(DataError, match="found 'moon'; known: digits, hole"):
        data.load_source("moon")


def test_images_and_labels_must_match():
    """Both counts are in the message."""
    with pytest.raises(DataError, match="2 images and 3 class labels"):
        data.ImageSet(torch.zeros(2, 1, 1, 1), torch.zeros(3))


def test_a_class_table_out_of_order_is_refused(tmp_path):
    """class_index must count 0, 1, 2, ..."""
    data.write_classes(tmp_path / "c.json", [data.ClassRow(1, "b", 5), data.ClassRow(0, "a", 7)])
    with pytest.raises(ArtifactError, match=r"found \[1, 0\]"):
        data.read_classes(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('[{"wrong": 1}]')
    with pytest.raises(ArtifactError, match="not a class table"):
        data.read_classes(tmp_path / "c.json")


def test_more_images_per_class_change_no_earlier_shard():
    """Raising per_class appends: every full shard keeps its composition."""
    small, large = (
        list(pools.shards(draws=1, classes=3, per_class=n, batch_size=4)) for n in (4, 9)
    )
    assert small == large[: len(small)]
    assert sum(len(members) for _, members in large) == 27


def test_a_seed_depends_on_every_coordinate():
    """Draw, class, index and purpose give seeds of their own."""
    seeds = {
        pools.candidate_seed(0, purpose, d, c, i) for purpose in "ab" for d in range(3) for c in range(4) for i in range(5)
    }
    assert len(seeds) == 2 * 3 * 4 * 5
