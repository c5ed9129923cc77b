"""Data sets as they come out of their archives: right classes, labels and splits, or a line that leads there."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ims3core.errors import DataError

BIRDS = ("001.Albatross", "002.Auklet")
WNIDS = ("n01443537", "n01629819")


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def divided(listing):
    """Path of a picture -> its class and split."""
    rows = zip(listing.origins, listing.labels, listing.splits, strict=True)
    return {origin: (listing.names[label], split) for origin, label, split in rows}


def counts(listing):
    return dict(Counter(divided(listing).values()))


# Pictures numbered in lists: CUB-200-2011 and NABirds ----------------------------------------------------------------------


def numbered(draw, number=str):
    """Pictures of two birds, every third of them to test on; path -> class and split."""
    names = [f"{bird}/{n}.png" for bird in BIRDS for n in range(6)]
    root = draw(*(f"images/{name}" for name in names))
    write(root / "images.txt", *(f"{number(n)} {name}" for n, name in enumerate(names)))
    write(root / "train_test_split.txt", *(f"{number(n)} {int(n % 3 > 0)}" for n in range(len(names))))
    write(root / "attributes/attributes.txt", "1 has_bill")
    return {f"images/{name}": (name.split("/")[0], "train" if n % 3 else "test") for n, name in enumerate(names)}


@pytest.mark.parametrize(
    "number", [lambda n: str(n + 1), lambda n: f"0000139e-21dc-4d0c-bfe1-{n:012x}"], ids=["cub", "nabirds"]
)
def test_lists_of_numbered_pictures_divide_them(draw, read, number):
    """The published split, not one that is drawn; where only the pictures are read, a line says so and where it is."""
    wanted = numbered(draw, number)
    found = read("imagefolder", draw())
    assert (divided(found), found.warnings) == (wanted, [])
    alone = read("imagefolder", draw() / "images")
    assert (set(alone.splits), len(alone.warnings)) == ({"all"}, 1)
    assert (
        f"train_test_split.txt divides these pictures and is not used; data.path: {draw()} reads it"
        in alone.warnings[0]
    )
    draw("images/001.Albatross/more.png")
    assert (
        "1 pictures are not in it and are left out: 001.Albatross/more.png" in read("imagefolder", draw()).warnings[0]
    )


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("train_test_split.txt", lambda lines: lines[:-1], r"train_test_split\.txt: found no line for picture 11 of images\.txt \(002\.Auklet/5\.png\), wanted 1"),
        ("train_test_split.txt", lambda lines: [*lines[:-1], "11 2"], "found '2' for picture 11"),
        ("train_test_split.txt", lambda lines: [*lines, "0 1"], "row 13: found '0' and a second line for it"),
        ("images.txt", lambda lines: [*lines[:-1], "11"], "row 12: found '11' and nothing behind it"),
        ("images.txt", lambda lines: [*lines[:-1], "11 5.png"], "picture 11 is '5.png', wanted <class>/<image>"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_named_with_the_picture(draw, read, table, change, says):
    numbered(draw)
    write(draw() / table, *change((draw() / table).read_text().splitlines()))
    with pytest.raises(DataError, match=says):
        read("imagefolder", draw())


# Tiny-ImageNet, Food-101, GTSRB ---------------------------------------------------------------------------------------------


def test_tiny_imagenet_is_read_as_unpacked(draw, read):
    """Validation images by their annotations, as the test split; boxes, and the test folder without labels, are left out."""
    root = draw(*(f"train/{w}/images/{w}_{n}.JPEG" for w in WNIDS for n in range(4)),
                *(f"val/images/val_{n}.JPEG" for n in range(6)), "test/images/test_0.JPEG")  # fmt: skip
    for wnid in WNIDS:
        write(root / f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58")
    lines = [f"val_{n}.JPEG\t{WNIDS[n // 2 % 2]}\t0\t32\t44\t62" for n in range(6)]
    write(root / "val/val_annotations.txt", *lines)
    found = read("imagefolder", root)
    wanted = {f"val/images/val_{n}.JPEG": (WNIDS[n // 2 % 2], "test") for n in range(6)}
    assert {origin: said for origin, said in divided(found).items() if origin.startswith("val")} == wanted
    assert counts(found) == {
        (WNIDS[0], "train"): 4,
        (WNIDS[1], "train"): 4,
        (WNIDS[0], "test"): 4,
        (WNIDS[1], "test"): 2,
    }
    assert "2 files that are no pictures of a class are left out" in found.warnings[1]
    write(root / "val/val_annotations.txt", *lines[:-1], "val_5.JPEG\tfish\t0\t0\t1\t1")
    with pytest.raises(DataError, match=r"val_annotations\.txt: row 6 has 0 WordNet ids \('fish'\), wanted one"):
        read("imagefolder", root)


@pytest.mark.parametrize("name", ["{kind}/{n}", "{kind}/{n}.png", "{kind}_{n}.png"])
def test_an_object_with_the_pictures_of_each_class_is_a_table(draw, read, name):
    """Food-101's train.json and test.json: names in lists, one list a class."""
    places = {(kind, n): name.format(kind=kind, n=n) for kind in ("pie", "ribs") for n in range(6)}
    root = draw(*(f"images/{place.removesuffix('.png')}.png" for place in places.values()))
    for part in ("train", "test"):
        own = {kind: [places[kind, n] for n in range(6) if (n < 2) == (part == "test")] for kind in ("pie", "ribs")}
        write(root / f"meta/{part}.json", json.dumps(own))
    wanted = {(kind, part): 4 if part == "train" else 2 for kind in ("pie", "ribs") for part in ("train", "test")}
    found = read("imagefolder", root)
    assert (counts(found), found.warnings) == (wanted, [])
    assert all(kind in origin for origin, (kind, _) in divided(found).items())


def test_several_labels_of_a_picture_are_no_pictures_of_a_class(draw, read):
    root = draw(*(f"images/{n}.png" for n in range(4)))
    write(root / "l.json", json.dumps({f"{n}.png": ["ant", "bee"] for n in range(4)}))
    with pytest.raises(DataError, match="row 1 has 2 labels"):
        read("imagefolder", root)


def signs(draw, train="Train/{:05d}", test="Test", number="ClassId", count=24):
    """Two signs a class folder with a table in each, and flat test pictures with one of their own."""
    root = draw(
        *(f"{train.format(c)}/{n}.png" for c in range(count) for n in range(2)),
        *(f"{test}/t{n}.png" for n in range(count)),
    )
    for c in range(count):
        write(
            root / train.format(c) / f"GT-{c}.csv",
            f"Filename;Width;Roi.X1;{number}",
            *(f"{n}.png;29;5;{c}" for n in range(2)),
        )
    write(
        root / "GT-test.csv",
        f"Filename;Width;Roi.X1;{number}",
        *(f"t{n}.png;29;5;{n * 5 % count}" for n in range(count)),
    )
    return root, {f"{test}/t{n}.png": (n * 5 % count, "test") for n in range(count)}


@pytest.mark.parametrize("number", ["ClassId", "class_id"])
def test_tables_of_class_folders_are_not_those_of_the_test_split(draw, read, number):
    """GTSRB: one table in each of many class folders; the number 7 in the table of the test pictures is the folder 00007."""
    root, wanted = signs(draw, number=number)
    found = divided(read("imagefolder", root))
    assert {origin: said for origin, said in found.items() if said[1] == "test"} == {
        origin: (f"{c:05d}", split) for origin, (c, split) in wanted.items()
    }
    assert all(origin.startswith(f"Train/{said[0]}/") for origin, said in found.items() if said[1] == "train")


def test_numbers_that_two_folders_have_are_no_label(draw, read):
    """7 can be 7 and 07."""
    root = draw(
        *(f"train/{c}/{n}.png" for c in ("7", "07", "8") for n in range(2)), *(f"test/t{n}.png" for n in range(3))
    )
    write(root / "test.csv", "file,label", "t0.png,07", "t1.png,7", "t2.png,8")
    assert divided(read("imagefolder", root))["test/t0.png"] == ("07", "test")
    write(root / "test.csv", "file,label", "t0.png,007", "t1.png,7", "t2.png,8")
    with pytest.raises(DataError, match="has the label '007', which is no class folder"):
        read("imagefolder", root)


def test_icons_beside_the_splits_are_left_out_by_the_key_that_is_named(draw, read):
    """GTSRB on Kaggle: Meta has one picture a class, and a table that labels it."""
    root, wanted = signs(draw, count=4)
    draw(*(f"Meta/{c}.png" for c in range(4)))
    write(root / "Meta.csv", "Path,ClassId", *(f"Meta/{c}.png,{c}" for c in range(4)))
    with pytest.raises(
        DataError, match=r"Meta: found beside train and test .*data\.splits: \{test: Test, train: Train\} reads"
    ):
        read("imagefolder", root)
    found = read("imagefolder", root, splits={"train": "Train", "test": "Test"})
    said = divided(found)
    assert {origin: said[origin] for origin in wanted} == {o: (f"{c:05d}", split) for o, (c, split) in wanted.items()}
    assert Counter(split for _, split in said.values()) == {"train": 12, "test": 4}  # a table in each folder of Train
    assert (
        f"{root}: 4 pictures of a table are in no folder of a split and are left out: Meta/0.png" in found.warnings[-1]
    )


@pytest.mark.parametrize("place", ["Images/{:05d}", "car_data/car_data/train/{}"])
def test_a_table_that_does_not_help_is_named_with_the_folder_that_does(draw, read, place):
    """One level too high, and tables of sizes, as of GTSRB and Stanford Cars."""
    names = [place.format(c) for c in range(3)]
    root = draw(*(f"{name}/{c}{n}.png" for c, name in enumerate(names) for n in range(4)))
    for part in ("train", "test"):
        write(
            root / f"anno_{part}.csv", "file,width,height", *(f"{c}{n}.png,{n},{c}" for c in range(3) for n in range(4))
        )
    meant = root / Path(names[0]).parent
    with pytest.raises(DataError, match=rf"data\.label_column chooses; without a table: .*data\.path: {meant}$"):
        read("imagefolder", root)
    assert counts(read("imagefolder", meant)) == {(Path(name).name, "all"): 4 for name in names}


# What lies beside the classes ---------------------------------------------------------------------------------------------


BESIDE = {
    "dogs": ("images/Images/{}", "annotations/Annotation/a/0", "images/Images"),
    "caltech": ("101_ObjectCategories/{}", "Annotations/a/0.mat", "101_ObjectCategories"),
    "birds": ("CUB/images/{}", "segmentations/a/0.png", "CUB/images"),
    "arrays": ("photographs/{}", "features/a.npy", "photographs"),
    "attributes": ("images/{}", "attributes/a.txt", "images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_the_folder_of_the_classes_is_named(draw, read, kind):
    """Also below single folders, and where it has a name of its own; no annotations become a class."""
    place, other, meant = BESIDE[kind]
    root = draw(*(f"{place.format(c)}/{n}.png" for c in "ab" for n in range(4)))
    (draw if other.endswith(".png") else lambda path: write(root / path, "x"))(other)
    with pytest.raises(DataError, match=rf"data\.path: {root}/{meant} reads the folders in it"):
        read("imagefolder", root)
    assert read("imagefolder", root / meant).names == ["a", "b"]


@pytest.mark.parametrize("names", [("masks", "no_masks"), ("labels", "boxes")], ids="-".join)
def test_classes_may_be_called_like_annotations(draw, read, names):
    assert read("imagefolder", draw(*(f"{c}/{n}.png" for c in names for n in range(4)))).names == sorted(names)


@pytest.mark.parametrize("name", ["BACKGROUND_Google", "257.clutter"])
def test_a_class_of_what_is_none_of_the_others_is_said(draw, read, name):
    found = read("imagefolder", draw(*(f"{c}/{n}.png" for c in ("a", "b", name) for n in range(2))))
    assert found.warnings == [
        f"class {name} holds pictures of none of the other classes; a list in data.classes leaves it out"
    ]
    assert read("imagefolder", draw(*(f"x/{c}/0.png" for c in ("background", "crack"))) / "x").warnings == []


@pytest.mark.parametrize("same", ["all", "not one", "of another split"])
def test_copies_of_pictures_are_taken_once_and_counted(draw, read, same):
    """HAM10000's two parts in two spellings; of other pictures, or of a test split, under one name none is taken."""
    root = draw(*(f"Part_{n % 2}/{n}.png" for n in range(8)))
    for folder in ("Part_0", "Part_1"):
        shutil.copytree(root / folder, root / folder.lower())
    write(root / "l.csv", "id,dx", *(f"{n},{'pq'[n // 2 % 2]}" for n in range(8)))
    if same != "all":
        other = "test/0.png" if same == "of another split" else "part_0/0.png"
        draw("part_0/0.png")
        if same == "of another split":
            (root / "test").mkdir()
            shutil.move(root / "Part_0/0.png", root / other)
            shutil.copy(root / other, root / "part_0/0.png")
        with pytest.raises(DataError, match=r"row 2: '0' can be \S+/0\.png, \S+/0\.png"):
            read("imagefolder", root, table="l.csv")
        return
    found = read("imagefolder", root)
    assert {origin: name for origin, (name, _) in divided(found).items()} == {
        f"Part_{n % 2}/{n}.png": "pq"[n // 2 % 2] for n in range(8)
    }
    assert found.warnings == ["l.csv: 8 pictures lie there a second time with the same bytes, and are left out: "
                              "part_0/0.png, part_1/1.png and 6 more"]  # fmt: skip


def test_texts_beside_the_classes_of_one_folder_hide_nothing(draw, read):
    """A README in a folder one level too high does not make it a class with pictures of its own."""
    root = draw(*(f"{s}/{c}/{n}.png" for s in ("x", "y") for c in (f"{s}1", f"{s}2") for n in range(2)))
    write(root / "x/README.md", "x")
    assert (
        "class x has no pictures of its own, its folders x1, x2 count as one class"
        in read("imagefolder", root).warnings[0]
    )


@pytest.mark.parametrize(
    ("splits", "says"), [(("valid",), "{train: train, validation: valid}"), ((), "{train: train}"), (("val",), "{train: train, validation: val}")]
)  # fmt: skip
def test_test_pictures_without_labels_can_be_left_out(draw, read, splits, says):
    """The line has the key; the validation split takes the place of the test split, or this is drawn."""
    root = draw(
        *(f"{s}/{c}/{n}.png" for s in ("train", *splits) for c in "ab" for n in range(3)), "test/0.png", "test/1.png"
    )
    with pytest.raises(DataError, match="or leave them out: data.splits: ") as error:
        read("imagefolder", root)
    assert str(error.value).endswith(says)
    keys = dict(pair.split(": ") for pair in says.strip("{}").split(", "))
    assert Counter(read("imagefolder", root, splits=keys).splits) == ({"train": 6, "test": 6} if splits else {"all": 6})
