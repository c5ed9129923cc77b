"""Folders one level too high or too low, splits as classes, links, and names in another spelling or alphabet."""

import os

import pytest

from ims3core.errors import DataError


def classes(*folders, count=4):
    return [f"{folder}/{n}.png" for folder in folders for n in range(count)]


def by_role(listing):
    return {role: listing.splits.count(role) for role in set(listing.splits)}


# Where the class folders are -------------------------------------------------------------------------------------------

MEANT = {
    "unpacked": (classes("flowers/a", "flowers/b"), "its folders a, b are probably meant: data.path: {root}/flowers"),
    "deep": (classes("archive/data/flowers/a", "archive/data/flowers/b"), "meant: data.path: {root}/archive/data/flowers"),
    "splits-below": (classes("data/train/a", "data/train/b", "data/test/a", "data/test/b"), "meant: data.path: {root}/data"),
    "flat": (classes("images"), "wanted a folder for every class, or a table of labels in data.table"),
    "one-train": (classes("train/a"), "wanted a folder for every class"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEANT)
def test_one_class_says_which_folder_was_meant(draw, read, kind):
    """The hint of the listing, which `prepare` puts at the end of its refusal; the folder it names is read."""
    tree, says = MEANT[kind]
    root = draw(*tree)
    hint = read("imagefolder", root).hint
    assert says.format(root=root) in hint
    if "data.path: " in hint:
        assert read("imagefolder", hint.split("data.path: ")[1]).names == ["a", "b"]


def test_several_classes_have_no_hint(draw, read):
    assert read("imagefolder", draw(*classes("a", "b"))).hint == ""


PROBLEMS = {
    "repeated": (classes("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_test/seg_test/b", "seg_pred/seg_pred"),
                 r"named like splits, not like classes; data\.splits: \{train: seg_train/seg_train, test: seg_test/seg_test\}"),
    "flat-splits": (classes("train_images", "test_images"), "named like splits, not like classes, and hold no class folders to train on"),
    "no-train": (classes("test/a", "test/b", "val/a", "val/b"), r"its folders \(test, val\) are named like splits"),
    "beside-train": (classes("train/a", "train/b", "annotations"), r"annotations: found beside a train folder.*data\.splits: \{train: train\} reads"),
    "beside-both": (classes("train/a", "test/a", "extra"), r"extra: found beside train and test folders.*data\.splits: \{test: test, train: train\}"),
    "texts": ([*classes("a", "b"), "labels/x.csv"], r"labels: found no pictures \(x\.csv, .*\), wanted only class folders"),
    "too-low": (classes("."), r"it holds 4 pictures side by side \(0\.png, 1\.png, 2\.png and 1 more\)"),
    "eval": (classes("train/a", "train/b", "eval/a", "eval/b"), r"eval: found beside a train folder, .*\{train: train, test: eval\} reads it as a split, \{train: train\} reads these alone"),
    "test1": (classes("train/a", "train/b", "test1/a", "test1/b"), r"test1: found beside a train folder, .*\{train: train, test: test1\} reads it as a split"),
    "trainset": (classes("trainset/a", "trainset/b", "testset/a", "testset/b"), r"named like splits, not like classes; data\.splits: \{train: trainset, test: testset\}"),
    "masks": (classes("images", "masks"), "its folders images and masks look like pictures and masks or annotations of them"),
    "trimaps": (classes("images", "annotations/trimaps"), "its folders images and annotations look like pictures and masks or annotations"),
    "classes-and-masks": (classes("images/a", "images/b", "masks/a", "masks/b"), r"data\.path: \S+/images reads the folders in it"),
    "boxes": ([*classes("images/train", "images/val"), "labels/train/0.txt"], "its folders images and labels look like pictures and texts, such as boxes"),
    "deep-texts": ([*classes("a", "b"), "c/d/0.txt"], r"c: found no pictures \(d/0\.txt, .*texts, such as boxes, are no class"),
    "masks-inside": (classes("a/images", "a/masks", "b/images", "b/masks"), "its folders a, b hold folders of the same names .*: pictures, and what belongs to them"),
    "parts": (classes("HAM_images_part_1", "HAM_images_part_2"), "numbered like parts or folds of one set, not like classes; wanted a table of labels"),
    "drive": (classes("photos-001/a", "photos-001/b", "photos-002/c"), r"numbered like parts or folds.*data\.splits: \{train: photos-001, test: photos-002\} where they are splits"),
    "folds": (classes(*(f"fold_{n}/{c}" for n in range(3) for c in "ab")), r"its folders fold_0, fold_1, fold_2 hold folders of the same names \(a, b\), which are probably the classes"),
    "domains": (classes("amazon/bag", "amazon/bike", "dslr/bag", "dslr/bike"), r"probably the classes; data\.path: \S+/amazon reads those of amazon alone.*data\.classes names them"),
    "some-splits": (classes("a/train", "a/test", "b/train", "b/test", "c/train"), "which are splits inside of classes; wanted the same ones in every class"),
    "flat-train": (classes("train", "test"), "train: found no class folders.*4 pictures side by side"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_folders_that_are_no_classes_are_refused(draw, read, kind):
    tree, says = PROBLEMS[kind]
    root = draw(*(path for path in tree if path.endswith(".png")))
    for path in (root / path for path in tree if not path.endswith(".png")):
        path.parent.mkdir(parents=True)
        path.write_text("epoch;accuracy\n1;0.5\n")
    with pytest.raises(DataError, match=says):
        read("imagefolder", root)


@pytest.mark.parametrize(
    ("tree", "splits"),
    [
        (PROBLEMS["repeated"][0], {"train": "seg_train/seg_train", "test": "seg_test/seg_test"}),
        (PROBLEMS["beside-train"][0], {"train": "train"}), (PROBLEMS["beside-both"][0], {"test": "test", "train": "train"}),
    ],
    ids=["repeated", "beside-train", "beside-both"],
)  # fmt: skip
def test_the_splits_that_a_refusal_names_are_read(draw, read, tree, splits):
    found = read("imagefolder", draw(*tree), splits=splits)
    assert found.names == sorted({path.split("/")[-2] for path in tree if path.startswith(splits["train"])})
    assert set(found.splits) == (set(splits) if len(splits) > 1 else {"all"})


@pytest.mark.parametrize(
    "names", [("train", "bus", "car"), ("train", "test tube", "car"), ("dev", "ops")], ids="-".join
)
def test_classes_may_be_called_like_splits(draw, read, names):
    """A train is a vehicle, where its folder holds pictures like the others."""
    assert read("imagefolder", draw(*classes(*names))).names == sorted(names)


@pytest.mark.parametrize(
    "names", [("c0", "c1"), ("class_0", "class_1"), ("Sample001", "Sample002"), ("s1", "s2"), ("0", "1")], ids="-".join
)
def test_numbered_classes_are_classes(draw, read, names):
    """Numbers alone, and numbers behind a word that is none of parts, folds and pictures."""
    assert read("imagefolder", draw(*classes(*names))).names == list(names)


@pytest.mark.parametrize(
    "names", [("images", "masks"), ("part_1", "part_2"), ("x/a", "x/b", "y/a", "y/b")], ids="-".join
)
def test_a_list_of_classes_overrules(draw, tmp_path, names):
    """Folders that look like none are classes where ``data.classes`` names them."""
    from types import SimpleNamespace

    from ims3core.ingest.readers import imagefolder

    root, tops = draw(*classes(*names)), {name.split("/")[0] for name in names}
    section = SimpleNamespace(path=str(root), splits=None, table=None, image_column=None, label_column=None)
    found = imagefolder.read(section, tops)
    assert found.names == sorted(tops) and len(found.items) == 4 * len(names)


@pytest.mark.parametrize(
    ("inside", "splits", "roles"),
    [(("train", "test"), None, {"train": 8, "test": 8}), (("Train", "valid", "TEST"), None, {"train": 8, "validation": 8, "test": 8}),
     (("train", "val"), None, {"train": 8, "test": 8}), (("fit", "exam"), {"train": "fit", "test": "exam"}, {"train": 8, "test": 8})],
)  # fmt: skip
def test_splits_inside_of_classes_are_splits(draw, read, inside, splits, roles):
    """The class first, its splits in it, under usual names or those of ``data.splits``."""
    found = read(
        "imagefolder", draw(*classes(*(f"{name}/{split}" for name in "ab" for split in inside))), splits=splits
    )
    assert (found.names, by_role(found)) == (["a", "b"], roles)
    assert all(found.names[label] == origin[0] for label, origin in zip(found.labels, found.origins, strict=True))


@pytest.mark.parametrize("left", ["#recycle", "@Recycle", "@eaDir", "lost+found", "$RECYCLE.BIN", "a/#recycle"])
def test_what_systems_leave_is_no_class(draw, read, left):
    """Bins with pictures, and empty folders, beside and in classes."""
    root = draw(*classes("a", "b", left))
    (root / "lost+found").mkdir(exist_ok=True)
    found = read("imagefolder", root)
    assert (found.names, len(found.items)) == (["a", "b"], 8)


def test_capitals_do_not_make_classes_of_splits(draw, read):
    found = read("imagefolder", draw(*classes("Train/a", "Train/b", "TEST/a", "TEST/b")))
    assert (found.names, by_role(found)) == (["a", "b"], {"train": 8, "test": 8})


def test_one_level_too_low_names_the_folder_or_table_above(draw, read):
    root = draw(*classes("x/a", "x/b"))
    with pytest.raises(DataError, match=f"if a is a class, like b, data.path: {root}/x"):
        read("imagefolder", root / "x/a")
    (root / "x/l.csv").write_text("id,label\n" + "".join(f"{n},{'cd'[n % 2]}\n" for n in range(4)))
    with pytest.raises(DataError, match=f"if l.csv has their labels, data.table: {root}/x/l.csv"):
        read("imagefolder", root / "x/a")
    assert read("imagefolder", root / "x/a", table=f"{root}/x/l.csv").names == ["c", "d"]


def test_domains_that_hold_classes_are_said(draw, read):
    """Two folders, each with folders of pictures: probably one level too high."""
    found = read(
        "imagefolder", draw(*classes("amazon/images/bag", "amazon/images/bike", "dslr/images/bag", "dslr/images/bike"))
    )
    assert "class amazon has no pictures of its own, its folders bag, bike count as one class" in found.warnings[0]
    assert read("imagefolder", draw(*classes("tiny/a/images", "tiny/b/images")) / "tiny").warnings == []


def test_pictures_beside_class_folders_are_counted(draw, read):
    """In the folder itself and in those of splits."""
    root = draw(*classes("train/a", "train/b", "test/a", "test/b", "train", count=2), "0.png")
    (root / "README.txt").write_text("no picture")
    warnings = read("imagefolder", root).warnings
    assert [line.split(": ", 1)[1] for line in warnings] == [
        "1 pictures beside the class folders are left out: 0.png", "2 pictures beside the class folders are left out: 0.png, 1.png",
    ]  # fmt: skip


# Links and names ----------------------------------------------------------------------------------------------------------


def test_links_are_followed_wherever_they_are(draw, read):
    """A class that is a link, and a folder linked into a class, give all their pictures."""
    root = draw(*classes("x/a", "x/b", "far/c", "far/more"))
    (root / "x/c").symlink_to(root / "far/c")
    (root / "x/b/more").symlink_to(root / "far/more")
    found = read("imagefolder", root / "x")
    assert found.labels.tolist().count(found.names.index("b")) == 8
    assert found.names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "links",
    [{"x/loop": "x"}, {"x/a/up": "x/a"}, {"x/a/up": "/"}, {"x/a/y": "x/b", "x/b/z": "x/a"}, {"x/loop": "."}],
    ids=["class", "self", "root", "mutual", "above"],
)
def test_loops_are_refused_as_links(draw, read, links):
    root = draw(*classes("x/a", "x/b"))
    for link, target in links.items():
        (root / link).symlink_to(root / target)
    with pytest.raises(DataError, match=r"a link to \S+, a folder that it is in itself"):
        read("imagefolder", root / "x")


def test_links_to_what_is_not_there_are_named(draw, read):
    """A class that is not mounted; one outside the list of classes is nobody's business."""
    root = draw(*classes("a", "b"))
    (root / "dog").symlink_to("/nowhere/dog")
    with pytest.raises(
        DataError, match="dog: a link to /nowhere/dog, which is not there; mount it, or remove the link"
    ):
        read("imagefolder", root)
    (root / "dog").rename(root / "a/9.png")
    from ims3core.data.decode import decode_chunk

    found = read("imagefolder", root)
    problems = dict(zip(found.origins, decode_chunk(list(found.items), 6, 3).problems, strict=True))
    assert problems.pop("a/9.png") == "a link to /nowhere/dog, which is not there"
    assert set(problems.values()) == {None}


def test_a_folder_that_cannot_be_read_is_named(draw, read, monkeypatch):
    """os.walk would leave it out without a word."""
    root, scandir = draw(*classes("a", "b", "b/deep")), os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"data\.path: \S+/b: Permission denied"):
        read("imagefolder", root)


COMPOSED, APART = "K\u00e4fer", "Ka\u0308fer"


def test_two_spellings_of_one_name_are_said_to_be_two(draw, read):
    root = draw(*classes(COMPOSED, APART, "b"))
    with pytest.raises(DataError, match=r"look alike, one name in two spellings of Unicode \(NFC and NFD, 5 and 6"):
        read("imagefolder", root)


def test_a_class_spelt_otherwise_in_the_test_split_is_the_same(draw, read):
    found = read("imagefolder", draw(*classes(f"train/{APART}", "train/b", f"test/{COMPOSED}", "test/b")))
    assert (found.names, by_role(found)) == ([APART, "b"], {"train": 8, "test": 8})
    assert len(set(found.labels[[split == "test" for split in found.splits]])) == 2


@pytest.mark.parametrize("place", [b"K\xe4fer", b"a/K\xe4fer.png"])
def test_a_name_that_is_no_text_is_shown(draw, read, place):
    """Bytes of Latin-1, as a folder and as a file."""
    root = draw(*classes("a", "b", "c"))
    source = b"a/0.png" if place.endswith(b"png") else b"c"
    (root / os.fsdecode(source)).rename(root / os.fsdecode(place))
    with pytest.raises(DataError, match="not in UTF-8") as error:
        read("imagefolder", root)
    assert "K\\xe4fer" in str(error.value)


def test_archives_in_the_place_of_folders_are_called_so(tmp_path, read):
    (tmp_path / "train.tar").write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 99)
    with pytest.raises(DataError, match=r"it holds train\.tar, a tar archive; wanted it unpacked"):
        read("imagefolder", tmp_path)
    with pytest.raises(DataError, match=r"train\.tar: a tar archive, wanted a folder"):
        read("imagefolder", tmp_path / "train.tar")
