"""Labels in a table beside the pictures: every picture has the label of its row, or one line says why not."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from ims3core.errors import DataError

NAMES = ("ant", "bee", "cat")
ROWS = {f"{n:02d}": NAMES[n % 3] for n in range(9)}


def write(path, header, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(separator.join(map(str, row)) for row in [header, *rows] if row) + "\n", encoding="utf-8")


def labelled(listing):
    """Stem of a picture -> its class."""
    stems = [origin.rsplit("/", 1)[-1].split(".")[0] for origin in listing.origins]
    return {stem: listing.names[label] for stem, label in zip(stems, listing.labels, strict=True)}


def jsonl(path, **cells):
    path.write_text("\n".join(json.dumps({**{key: f(n) for key, f in cells.items()}}) for n in ROWS))


# What lies where: the folder of the pictures, and what writes the table (root, path of a picture -> None) -----------------

TABLES = {
    "hub-csv": ("train", lambda root: write(root / "train/metadata.csv", ["file_name", "label"], [(f"{n}.png", k) for n, k in ROWS.items()])),
    "hub-jsonl": ("train/images", lambda root: jsonl(root / "train/metadata.jsonl", file_name=lambda n: f"images/{n}.png", label=ROWS.get, width=lambda n: 6)),
    "hub-parquet": ("train", lambda root: pyarrow.parquet.write_table(pa.table({"file_name": [f"{n}.png" for n in ROWS], "label": list(ROWS.values())}), root / "train/metadata.parquet")),
    "ids": ("train", lambda root: write(root / "labels.csv", ["id", "breed"], ROWS.items())),
    "tabs": ("images", lambda root: write(root / "labels.tsv", ["image", "label", "width"], [(n, k, 6) for n, k in ROWS.items()], "\t")),
    "semicolons": ("images", lambda root: write(root / "labels.csv", ["image", "label"], [(f"{n}.PNG", k) for n, k in ROWS.items()], ";")),
    "paths-elsewhere": ("images", lambda root: write(root / "l.csv", ["path", "label"], [(f"/data/me/x/images/{n}.png", k) for n, k in ROWS.items()])),
    "paths-windows": ("images", lambda root: write(root / "l.csv", ["path", "label"], [(f"images\\{n}.png", k) for n, k in ROWS.items()])),
    "paths-upwards": ("images", lambda root: write(root / "labels/l.csv", ["path", "label"], [(f"../images/{n}.png", k) for n, k in ROWS.items()])),
    "no-header": ("images", lambda root: write(root / "l.csv", [], [(f"{n}.png", k) for n, k in ROWS.items()])),
    "one-hot": ("images", lambda root: write(root / "truth.csv", ["image", *NAMES], [(n, *(f"{float(k == name)}" for name in NAMES)) for n, k in ROWS.items()])),
    "json-object": ("images", lambda root: (root / "labels.json").write_text(json.dumps({f"{n}.png": k for n, k in ROWS.items()}))),
    "json-list": ("images", lambda root: (root / "labels.json").write_text(json.dumps([{"file": f"{n}.png", "class": k} for n, k in ROWS.items()]))),
    "side-by-side": (".", lambda root: write(root / "labels.csv", ["id", "breed"], ROWS.items())),
}  # fmt: skip


@pytest.mark.parametrize("source", ["imagefolder", "huggingface"])
@pytest.mark.parametrize("kind", TABLES)
def test_every_usual_table_gives_its_labels(draw, read, kind, source):
    folder, table = TABLES[kind]
    root = draw(*(f"{folder}/{n}.png" for n in ROWS))
    table(root)
    found = read(source, root)
    assert labelled(found) == ROWS
    assert (found.names, set(found.splits), found.warnings) == (list(NAMES), {"all"}, [])


def test_splits_are_those_of_folders_tables_or_a_column(draw, read):
    """Tables in split folders, tables named after splits, a column; three spellings of one thing."""
    root = draw(
        *(f"{place}/{n}.png" for place in ("a/train", "b/images", "c/images") for n in ROWS),
        "a/test/99.png",
        "b/images/99.png",
        "c/images/99.png",
    )
    for part, rows in (("train", ROWS), ("test", {"99": "ant"})):
        write(root / "a" / part / "metadata.csv", ["file_name", "label"], [(f"{n}.png", k) for n, k in rows.items()])
        write(root / "b" / f"{part}.csv", ["filename", "label"], [(f"{n}.png", k) for n, k in rows.items()])
    write(
        root / "c/all.csv",
        ["labels", "filepaths", "data set"],
        [(k, f"images/{n}.png", "train") for n, k in ROWS.items()] + [("ant", "images/99.png", "test")],
    )
    for case in "abc":
        found = read("imagefolder", root / case)
        assert {name for name, split in zip(found.origins, found.splits, strict=True) if split == "test"} == {
            next(o for o in found.origins if "99" in o)
        }
        assert found.splits.count("train") == 9


def test_ids_mean_the_pictures_of_the_split_the_table_is_for(draw, read):
    """trainLabels.csv beside train/ and test/ that number their pictures alike: no test picture gets a label."""
    root = draw(*(f"{part}/{n}.png" for part in ("train", "test") for n in ROWS))
    write(root / "trainLabels.csv", ["id", "label"], ROWS.items())
    write(root / "sampleSubmission.csv", ["id", "label"], [(n, "cat") for n in ROWS])
    found = read("imagefolder", root)
    assert {origin.split("/")[0] for origin in found.origins} == {"train"}
    assert labelled(found) == ROWS
    assert found.warnings == [
        "9 pictures have no row with a label in trainLabels.csv and are left out: test/00.png, test/01.png, test/02.png and 6 more"
    ]


def test_answers_of_a_competition_are_no_labels(draw, read):
    """sample_submission.csv gives every test picture the same class."""
    root = draw(*(f"train/{n}.png" for n in ROWS), "test/90.png", "test/91.png")
    write(root / "labels.csv", ["id", "label"], ROWS.items())
    write(root / "sample_submission.csv", ["id", "label"], [("90", "cat"), ("91", "cat")])
    found = read("imagefolder", root)
    assert (labelled(found), set(found.splits)) == (ROWS, {"all"})


def test_a_table_of_the_test_split_does_not_label_training_pictures(draw, read):
    """Rows test/00.png where only train/00.png is there name nothing."""
    root = draw(*(f"train/{n}.png" for n in ROWS))
    write(root / "a.csv", ["path", "label"], [(f"test/{n}.png", k) for n, k in ROWS.items()])
    with pytest.raises(DataError, match="found no class folders"):
        read("imagefolder", root)
    with pytest.raises(DataError, match="no column names pictures"):
        read("imagefolder", root / "train", table=str(root / "a.csv"))


def test_numbers_are_classes_in_their_order_and_as_whole_ones(draw, read):
    """A spreadsheet's 10.0 is class 10, after 9."""
    rows = {f"{n:02d}": n % 11 for n in range(22)}
    root = draw(*(f"x/{n}.png" for n in rows))
    write(root / "l.csv", ["id", "label"], [(n, f"{k}.0") for n, k in rows.items()])
    found = read("imagefolder", root)
    assert found.names == [str(n) for n in range(11)]
    assert labelled(found) == {n: str(k) for n, k in rows.items()}


BROKEN = {
    "lost": (["id", "label"], [*ROWS.items(), ("98", "ant"), ("99", "bee")], r"2 rows name a picture that is not there: 98 in row 11, 99 in row 12; data\.skip_unreadable"),
    "columns": (["id", "kind", "dx"], [(n, k, k.upper()) for n, k in ROWS.items()], r"2 columns \(kind, dx can be the label\), wanted one; data\.label_column chooses"),
    "only-names": (["id"], [(n,) for n in ROWS], r"0 columns \(only names of pictures\)"),
    "two-rows": (["id", "label"], [*ROWS.items(), ("00", "cat")], "00 has the labels 'ant' in row 2 and 'cat' in row 11, wanted one label"),
    "bars": (["id", "label"], [*list(ROWS.items())[:-1], ("08", "ant|bee")], r"row 10 has several labels \('ant\|bee'\)"),
    "blanks": (["id", "label"], [*list(ROWS.items())[:-1], ("08", "ant bee")], r"row 10 has several labels \('ant bee'\)"),
    "twice": (["id", "label", "label"], [(n, k, k) for n, k in ROWS.items()], "wanted each name once"),
    "longer": (["id", "label"], [*ROWS.items(), ("00", "ant", "x")], "row 11 has 3 cells, the header 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_a_table_is_said_with_its_row(draw, read, kind):
    header, rows, says = BROKEN[kind]
    root = draw(*(f"images/{n}.png" for n in ROWS))
    write(root / "l.csv", header, rows)
    with pytest.raises(DataError, match=rf"data\.table: \S+l\.csv: .*{says}"):
        read("imagefolder", root)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.jsonl", '{"file_name": "images/00.png", "label": ["ant", "bee"]}', "row 1 has 2 labels"), ("l.jsonl", '{"file_name": 1}\n{bad', "row 2: "),
        ("l.json", '"x"', "wanted objects"), ("l.xlsx", "PK", "a spreadsheet, wanted it saved as CSV"), ("l.csv", "PK\x03\x04x", "a zip archive, wanted a table"),
        ("l.csv", ",,\n;\n", "an empty file"),
    ],
)  # fmt: skip
def test_tables_of_another_form_are_called_what_they_are(draw, read, name, content, says):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    (root / name).write_text(content)
    with pytest.raises(DataError, match=says):
        read("imagefolder", root)


def test_rows_and_pictures_that_are_left_out_are_counted(draw, read):
    """Three rows without a label, two pictures without a row."""
    root = draw(*(f"images/{n}.png" for n in [*ROWS, "90", "91"]))
    write(root / "l.csv", ["id", "label"], [(n, k if n > "02" else "") for n, k in ROWS.items()])
    found = read("imagefolder", root)
    assert labelled(found) == {n: k for n, k in ROWS.items() if n > "02"}
    assert found.warnings[0] == "l.csv: 3 rows have no label and are left out: row 2, 3, 4"
    assert found.warnings[1].startswith("5 pictures have no row with a label in l.csv and are left out: images/00.png")


def test_class_folders_come_before_a_table_and_the_table_is_named(draw, read):
    """Folders are the classes; a table that says otherwise is a warning, one that says the same is none."""
    root = draw(*(f"{k}/{n}.png" for n, k in ROWS.items()))
    write(root / "l.csv", ["id", "label"], [(n, f"the {k}") for n, k in ROWS.items()])
    assert (read("imagefolder", root).names, read("imagefolder", root).warnings) == (list(NAMES), [])
    write(root / "l.csv", ["id", "label"], [(n, "old" if n < "05" else "new") for n in ROWS])
    assert "l.csv has other labels for them, which data.table reads" in read("imagefolder", root).warnings[0]
    assert read("imagefolder", root, table="l.csv").names == ["new", "old"]
    assert read("imagefolder", root, label_column="label").names == ["new", "old"]


def test_an_unrelated_table_changes_nothing(draw, read):
    """Names of classes, with columns that name no picture."""
    root = draw(*(f"{k}/{n}.png" for n, k in ROWS.items()))
    write(root / "words.csv", ["label", "name"], [("ant", "an ant")])
    assert read("imagefolder", root).warnings == []
