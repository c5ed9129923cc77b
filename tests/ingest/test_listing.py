"""What every source hands over is accepted or refused by one check: arrays, labels, names, splits."""

import numpy as np
import pytest
from PIL import Image

from ims3core.data.decode import decode, decode_chunk
from ims3core.errors import DataError
from ims3core.ingest import listing, prepare, readers, splits
from ims3core.params.sections import Data


def pixels(count=12, side=6, channels=3, kind=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels)).astype(kind)


def section(source, path, **keys):
    given = {
        "source": source, "name": None, "path": str(path), "revision": None, "classes": None, "side": 6, "channels": 3,
        "storage": "pixels", "skip_unreadable": False, "validation_fraction": 0.1, "test_fraction": 0.2,
    }  # fmt: skip
    return Data(**given | keys)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, -1], r"label -1 in row 2.*hidden"), ([0, None, None], r"2 rows have no label \(null\), the first is row 1"),
        ([0.0, 0.5, 1.0], "label 0.5 in row 1 is not a whole number"), ([0, float("nan"), 1], r"1 rows have no label"),
        ([0, 1, 2], r"label 2 in row 2, the class table has 0\.\.1"), (["a", "b", "a"], "labels are"), ([[0, 1]] * 3, "of shape"),
        ([0, 1, 2**63], "."),
    ],
)  # fmt: skip
def test_labels_that_are_no_classes_are_refused(labels, says):
    with pytest.raises(DataError, match=says):
        listing.whole_labels(labels, classes=2, where="x")


@pytest.mark.parametrize(
    "labels", [[0, 1, 1], [0.0, 1.0, 1.0], [[0], [1], [1]], [False, True, True], np.array([0, 1, 1], np.uint8)]
)
def test_whole_labels_of_any_type_are_classes(labels):
    assert listing.whole_labels(labels, classes=2, where="x").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pixels(kind=np.float32) / 255, r"float32 from 0 to 1, wanted uint8.*multiply by 255"), (pixels(kind=np.int64), "pixels are int64"),
        (pixels().transpose(0, 3, 1, 2), "channels first"), (pixels().reshape(12, -1), "flattened images must be reshaped"),
        (pixels().reshape(12, -1, 1), "flattened"), (pixels(channels=2), "wanted"), (pixels()[0, 0, 0], "shape"), (np.zeros((3, 0, 5), np.uint8), "."),
    ],
)  # fmt: skip
def test_pixels_of_another_type_rank_or_order_are_refused(array, says):
    with pytest.raises(DataError, match=says):
        listing.pixel_array(array, where="x")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(["a/b", "c d"], ["a_b", "c_d"]), (["../../x", "y"], ["_.._x", "y"]), (["a\nb", "tab\tc"], ["ab", "tabc"]), ([".hidden", "b"], ["hidden", "b"])],
)  # fmt: skip
def test_names_become_folders(names, wanted):
    found = listing.folder_names(names, where="x")
    assert [name.lstrip("_") for name in found] == [name.lstrip("_") for name in wanted]
    assert not any("/" in name or name in (".", "..") for name in found)


@pytest.mark.parametrize(("names", "says"), [(["a/b", "a_b"], "share the folder"), (["..", "b"], "cannot be a folder"), (["", "b"], "cannot be a folder"), (["ä" * 150, "b"], "cannot be a folder")])  # fmt: skip
def test_names_that_cannot_be_folders_are_refused(names, says):
    with pytest.raises(DataError, match=says):
        listing.folder_names(names, where="x")


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (["train", "test"], {"train": "train", "test": "test"}, 0), (["train", "val"], {"train": "train", "val": "test"}, 1),
        (["train", "valid"], {"train": "train", "valid": "test"}, 1), (["train", "dev", "test"], {"train": "train", "dev": "validation", "test": "test"}, 0),
        (["training", "testing"], {"training": "train", "testing": "test"}, 0), (["train"], {"train": "all"}, 0),
    ],
)  # fmt: skip
def test_one_rule_says_which_split_is_the_test(found, wanted, said):
    named, warnings = listing.roles(found, None, where="x")
    assert named == wanted
    assert len(warnings) == said


@pytest.mark.parametrize(
    ("found", "chosen", "says"),
    [
        (["train", "unsupervised"], None, r"split 'unsupervised' is unknown.*data\.splits"), (["test"], None, "none to train on"),
        (["train", "val", "valid"], None, "val and valid are both validation"), (["a", "b"], {"train": "a", "test": "c"}, "no split 'c'; found a, b"),
    ],
)  # fmt: skip
def test_splits_without_one_meaning_name_the_key_that_decides(found, chosen, says):
    with pytest.raises(DataError, match=says):
        listing.roles(found, chosen, where="x")


def folders(root, tree):
    """Writes pictures, 6 px wide, at the paths of ``tree``."""
    for n, path in enumerate(tree):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(20)[n % 20]).save(root / path)
    return root


LAYOUTS = {
    "tiny-imagenet-val": ([f"train/{c}/images/{n}.png" for c in "ab" for n in range(4)] + [f"val/images/{n}.png" for n in range(4)], "val: its images are not in folders of their class"),
    "flat-test": ([f"train/{c}/{n}.png" for c in "ab" for n in range(4)] + ["test/1.png"], "test: its images are not in folders"),
    "droppings": ([f"{c}/{n}.png" for c in "ab" for n in range(4)] + ["a/.ipynb_checkpoints/0.png", "__MACOSX/a/0.png", "a/._0.png", "a/@eaDir/0.png"], {"all": 8}),
    "valid": ([f"{s}/{c}/{n}.png" for s in ("train", "valid") for c in "ab" for n in range(4)], {"train": 8, "test": 8}),
    "train-only": ([f"train/{c}/{n}.png" for c in "ab" for n in range(4)], {"all": 8}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_as_unzipped(tmp_path, layout):
    tree, wanted = LAYOUTS[layout]
    root = folders(tmp_path, tree)
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            readers.read(section("imagefolder", root))
        return
    found = readers.read(section("imagefolder", root))
    assert found.names == ["a", "b"]
    assert {role: found.splits.count(role) for role in set(found.splits)} == wanted


def test_split_names_are_a_parameter_where_the_choice_is_real(tmp_path):
    root = folders(tmp_path, [f"{s}/{c}/{n}.png" for s in ("fold1", "fold2") for c in "ab" for n in range(3)])
    found = readers.read(section("imagefolder", root, splits={"train": "fold1", "test": "fold2"}))
    assert {role: found.splits.count(role) for role in set(found.splits)} == {"train": 6, "test": 6}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: Image.fromarray(np.ones((4, 4), np.float32)).save(p.with_suffix(".tif")), "32-bit floats"),
        (lambda p: Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(p.with_suffix(".tif")), "32-bit integers"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (lambda p: p.write_bytes(b"<!DOCTYPE html><html></html>"), "HTML page"), (lambda p: p.write_bytes(b""), "an empty file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_picture_is_called_what_it_is(tmp_path, make, says):
    make(tmp_path / "x.png")
    found = decode_chunk([next(tmp_path.iterdir())], 4, 1)
    assert says in found.problems[0]


def test_sixteen_bits_are_scaled_and_nothing_is_a_problem(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    assert int(decode(tmp_path / "x.png", side=4, channels=1)[0, 0, 0]) == 40_000 >> 8
    assert decode_chunk([None], 4, 1).problems == ["no image in this row (null)"]


def test_pictures_with_two_labels_are_counted_once_each():
    digests, labels = ["x", "y", "x", "x", "z", "y"], np.array([0, 0, 1, 2, 1, 0])
    assert splits.contradictions(digests, labels, np.arange(6)) == [(0, 2)]
    assert splits.contradictions(digests, labels, np.array([0, 1, 4, 5])) == []


# As many pictures as there may be ----------------------------------------------------------------------------------------


def test_paths_of_files_are_those_below_the_folder(tmp_path):
    """One, some, and rows of a listing; names stay texts until they are asked for."""
    names = [f"{c}/{n}.png" for c in "ab" for n in range(3)]
    found = listing.Files(tmp_path, names)
    assert (len(found), found[4], found[1:3]) == (6, tmp_path / "b/1.png", [tmp_path / "a/1.png", tmp_path / "a/2.png"])
    whole = listing.Listing(["a", "b"], found, np.repeat([0, 1], 3), ["all"] * 6, names, tmp_path)
    assert list(whole.restricted(["b"]).items) == [tmp_path / f"b/{n}.png" for n in range(3)]


@pytest.mark.parametrize(
    "rows", [np.arange(200), np.arange(0, 200, 3)[::-1], np.arange(0)], ids=["all", "some", "none"]
)
def test_the_order_of_images_is_that_of_class_and_digest(rows):
    """The slow way: pairs, sorted; equal digests keep their order."""
    stream = np.random.default_rng(3)
    labels, digests = stream.integers(0, 7, 200), [f"{n:02x}" for n in stream.integers(0, 99, 200)]
    wanted = sorted(rows.tolist(), key=lambda row: (labels[row], digests[row]))
    found = prepare.canonical_order(rows, labels, digests)
    assert (found.tolist(), found.dtype) == (wanted, np.int64)


@pytest.mark.parametrize("channels", [1, 3])
def test_sums_are_exact_for_the_brightest_pictures(channels):
    """White has 255 and 65,025 in every pixel; a type too small for either would come back with less."""
    white, noise = np.full((40, 40), 255, np.uint8), pixels(1, 40)[0]
    found = decode_chunk([white, noise], 40, channels)
    values = np.stack([decode(image, side=40, channels=channels) for image in (white, noise)]).astype(object)
    assert found.sums[0].tolist() == [[1600 * 255, 1600 * 255**2]] * channels
    assert found.sums.tolist() == [[[int(c.sum()), int((c * c).sum())] for c in image] for image in values]
