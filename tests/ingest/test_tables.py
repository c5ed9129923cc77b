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


# Which column names the pictures ----------------------------------------------------------------------------------------

COUNTED = {f"{n}": NAMES[(5 * n) % 3] for n in range(12)}


@pytest.mark.parametrize("kind", ["pandas", "jsonl", "one lost", "named id", "zeros", "no header"])
def test_numbers_that_count_rows_are_not_taken_for_names_of_pictures(draw, read, kind):
    """Rows sorted as text, so that the index 2 stands beside 10.png; also where only the index finds all pictures."""
    root = draw(*(f"images/{f'{n:>04}' if kind == 'zeros' else n}.png" for n in COUNTED))
    names = sorted(COUNTED)
    rows = [(at, f"{f'{n:>04}' if kind == 'zeros' else n}.png", COUNTED[n]) for at, n in enumerate(names)]
    if kind == "jsonl":
        (root / "metadata.jsonl").write_text(
            "\n".join(json.dumps({"id": a, "file_name": f, "label": k}) for a, f, k in rows)
        )
    else:
        head = {"named id": ["id", "picture", "breed"], "no header": []}.get(kind, ["", "file", "label"])
        write(root / "l.csv", head, [*rows, *([(12, "gone.png", "ant")] if kind == "one lost" else [])])
    found = read("imagefolder", root, skip_unreadable=True, label_column="3" if kind == "no header" else None)
    assert {n.lstrip("0") or "0": k for n, k in labelled(found).items() if n != "gone"} == COUNTED


@pytest.mark.parametrize(
    ("header", "shown"), [(["", "number", "label"], "'column 1' and 'number'"), (["id", "image_id", "label"], "'id' and 'image_id'")]
)  # fmt: skip
def test_two_columns_of_numbers_that_can_be_the_pictures_are_refused(draw, read, header, shown):
    """One of them counts the rows and nothing says which; the key does."""
    root = draw(*(f"images/{n}.png" for n in COUNTED))
    write(root / "l.csv", header, [(at, n, COUNTED[n]) for at, n in enumerate(sorted(COUNTED))])
    with pytest.raises(
        DataError, match=rf"l\.csv: the columns {shown} both name pictures, .*; data\.image_column chooses"
    ):
        read("imagefolder", root)
    assert labelled(read("imagefolder", root, image_column=header[1])) == COUNTED


@pytest.mark.parametrize("names", [[f"{n:04d}" for n in range(12)], [f"{n:02d}" for n in range(12)]])
def test_zeros_that_a_spreadsheet_ate_are_put_back_and_said_once(draw, read, names):
    root = draw(*(f"images/{n}.png" for n in names))
    write(root / "l.csv", ["id", "label"], [(int(n), NAMES[int(n) % 3]) for n in names])
    found = read("imagefolder", root)
    assert labelled(found) == {n: NAMES[int(n) % 3] for n in names}
    assert found.warnings == [f"l.csv: 0 in row 2 is taken for images/{names[0]}.png, and so on: zeros at the front are "
                              "lost, as spreadsheets do it"]  # fmt: skip


def test_a_number_that_two_pictures_have_is_refused(draw, read):
    """01.png and 001.png: the zeros that are lost would tell them apart."""
    root = draw(*(f"images/{n}.png" for n in ["01", "001", "02", "03"]))
    write(root / "l.csv", ["id", "label"], [(1, "ant"), (2, "bee"), (3, "cat")])
    with pytest.raises(DataError, match=r"row 2: '1' can be images/001\.png, images/01\.png"):
        read("imagefolder", root)


@pytest.mark.parametrize("ending", [".xml", ".txt", ".json"])
def test_annotations_of_the_same_name_are_no_pictures(draw, read, ending):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    for n in ROWS:
        (root / f"images/{n}{ending}").write_text("{}" if ending == ".json" else "x")
    write(root / "l.csv", ["id", "label"], ROWS.items())
    assert labelled(read("imagefolder", root)) == ROWS


@pytest.mark.parametrize("names", [[f"x{n}" for n in range(9)], [f"img_{n}" for n in range(9)]])
def test_a_first_row_without_ending_is_no_header(draw, read, names):
    root = draw(*(f"images/{n}.png" for n in names))
    write(root / "l.csv", [], [(n, NAMES[at % 3]) for at, n in enumerate(names)])
    assert labelled(read("imagefolder", root)) == {n: NAMES[at % 3] for at, n in enumerate(names)}


def test_a_column_without_a_name_is_called_by_its_place(draw, read):
    """In the message that lists what can be the label; an index is not in it."""
    root = draw(*(f"images/{n}.png" for n in ROWS))
    write(
        root / "l.csv", ["", "file", "", "breed"], [(at, f"{n}.png", "x", k) for at, (n, k) in enumerate(ROWS.items())]
    )
    with pytest.raises(DataError, match=r"2 columns \(column 3, breed can be the label\)"):
        read("imagefolder", root)
    assert labelled(read("imagefolder", root, label_column="breed")) == ROWS
    write(root / "l.csv", ["", "file", "breed"], [(at, f"{n}.png", k) for at, (n, k) in enumerate(ROWS.items())])
    assert labelled(read("imagefolder", root)) == ROWS


# What labels say --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["-1", "-1.0", "nan", "NaN", "N/A", "null", "None", "?", "NA", "#N/A"])
def test_a_label_that_says_there_is_none_is_refused(draw, read, label):
    """Its pictures would be a class; an empty cell is how to leave them out."""
    root = draw(*(f"images/{n}.png" for n in ROWS))
    for rows in (ROWS, {n: NAMES.index(k) for n, k in ROWS.items()}):
        write(root / "l.csv", ["id", "label"], (rows | {"04": label, "07": label}).items())
        with pytest.raises(DataError, match=r"l\.csv: row 6 has the label '.*', which says that there is none; 2 rows"):
            read("imagefolder", root)


@pytest.mark.parametrize("label", ["none", "na", "unknown", "-", "1-2"])
def test_words_that_are_classes_somewhere_stay_classes(draw, read, label):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    write(root / "l.csv", ["id", "label"], (ROWS | {"04": label, "07": label}).items())
    assert labelled(read("imagefolder", root)) == ROWS | {"04": label, "07": label}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_without_any_label_is_one_line(draw, read, kind):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    if kind == "csv":
        write(root / "l.csv", ["id", "label"], [(n, "") for n in ROWS])
    else:
        jsonl(root / "l.jsonl", file_name=lambda n: f"{n}.png", label=lambda n: None)
    with pytest.raises(DataError, match=rf"l\.{kind}: none of its 9 rows has a label; data\.label_column chooses"):
        read("imagefolder", root)


@pytest.mark.parametrize(
    "names", [("Tomato, healthy", "Tomato, blight", "Potato, healthy"), ("green", "tea", "green tea"), ("sea, open", "sea", "lake, open")]
)  # fmt: skip
def test_commas_and_blanks_in_names_of_classes_are_no_lists(draw, read, names):
    """Parts that stand at one place only, or a name as frequent as its words."""
    rows = {n: names[int(n) % 3] for n in ROWS}
    root = draw(*(f"images/{n}.png" for n in rows))
    jsonl(root / "l.jsonl", file_name=lambda n: f"{n}.png", label=rows.get)
    assert labelled(read("imagefolder", root)) == {n: k.replace(" ", "_") for n, k in rows.items()}


@pytest.mark.parametrize("several", ["ant,bee", "ant, bee", "ant|bee", "bee;ant", "ant bee"])
def test_rare_lists_of_labels_are_refused_until_a_class_list_has_them(draw, read, several, tmp_path):
    """The way on: data.classes says that this is the name of a class."""
    rows = ROWS | {"08": several}
    root = draw(*(f"images/{n}.png" for n in rows))
    jsonl(root / "l.jsonl", file_name=lambda n: f"{n}.png", label=rows.get)
    with pytest.raises(DataError, match=r"row 9 has several labels .*; a list in data\.classes says"):
        read("imagefolder", root)
    (tmp_path / "c.csv").write_text("\n".join(["folder", *NAMES, f'"{several}"']))
    assert labelled(read("imagefolder", root, classes=str(tmp_path / "c.csv")))["08"] == several.replace(" ", "_")


def test_lists_that_are_no_more_than_lists_are_refused(draw, read):
    """No label stands alone; one is first here and second there."""
    rows = {n: ("ant,bee", "bee,cat", "ant,cat")[int(n) % 3] for n in ROWS}
    root = draw(*(f"images/{n}.png" for n in rows))
    jsonl(root / "l.jsonl", file_name=lambda n: f"{n}.png", label=rows.get)
    with pytest.raises(DataError, match="several labels"):
        read("imagefolder", root)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_list_of_one_label_is_that_label(draw, read, kind):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    if kind == "json":
        (root / "l.json").write_text(json.dumps({f"{n}.png": [k] for n, k in ROWS.items()}))
    else:
        jsonl(root / "l.jsonl", file_name=lambda n: f"{n}.png", label=lambda n: [ROWS[n]])
    assert labelled(read("imagefolder", root)) == ROWS


# Rows and tables that do not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", ["/images/", "../images/", "./images/", "C:\\data\\images\\", "//images/"])
def test_a_lost_picture_is_looked_for_below_the_data(draw, read, front):
    """Wherever the table says that its paths begin, with a slash too."""
    root = draw(*(f"images/{n}.png" for n in ROWS))
    write(
        root / "csv/l.csv",
        ["path", "label"],
        [*((f"{front}{n}.png", k) for n, k in ROWS.items()), (f"{front}gone.png", "ant")],
    )
    with pytest.raises(DataError, match=r"1 rows name a picture that is not there: \S*gone\.png in row 11"):
        read("imagefolder", root)
    found = read("imagefolder", root, skip_unreadable=True)
    assert labelled(found) == ROWS | {"gone": "ant"}
    assert not any(origin.startswith(("/", "..")) for origin in found.origins)


@pytest.mark.parametrize("places", [["images"], ["."], ["images_1", "images_2"], ["part-001", "part-002"]])
def test_a_table_that_fits_no_picture_is_named_where_folders_are_no_classes(draw, read, places):
    """Its first row shows why: other endings."""
    root = draw(*(f"{places[int(n) % len(places)]}/{n}.png" for n in ROWS))
    write(root / "l.csv", ["file", "label"], [(f"{n}.jpg", k) for n, k in ROWS.items()])
    with pytest.raises(DataError, match=r"; l\.csv names none of the pictures there \(file: 00\.jpg, label: ant\)"):
        read("imagefolder", root)
    write(root / "l.csv", ["file", "label"], [(f"{n}.png", k) for n, k in ROWS.items()])
    assert labelled(read("imagefolder", root)) == ROWS


@pytest.mark.parametrize("places", [["images"], ["images_1", "images_2"]])
def test_more_tables_than_are_looked_at_are_counted(draw, read, places):
    root = draw(*(f"{places[int(n) % len(places)]}/{n}.png" for n in ROWS))
    for number in range(21):
        write(root / f"t{number:02d}.csv", ["id", "label"], ROWS.items())
    with pytest.raises(
        DataError, match=r"21 tables lie there \(t00\.csv, t01\.csv, t02\.csv and 18 more\), of which data\.table"
    ):
        read("imagefolder", root)
    assert labelled(read("imagefolder", root, table="t03.csv")) == ROWS


def test_a_table_that_is_not_clear_is_named_beside_one_that_is(draw, read):
    root = draw(*(f"images/{n}.png" for n in ROWS))
    write(root / "a.csv", ["id", "label"], list(ROWS.items())[:6])
    write(root / "b.csv", ["id", "kind", "dx"], [(n, k, k) for n, k in list(ROWS.items())[6:]])
    warnings = read("imagefolder", root).warnings
    assert any("a table is not used: " in warning and "b.csv: 2 columns (kind, dx" in warning for warning in warnings)


@pytest.mark.parametrize("source", ["imagefolder", "huggingface"])
@pytest.mark.parametrize("place", ["images", "."])
def test_a_parquet_of_names_and_labels_beside_pictures_is_a_table(draw, read, source, place):
    root = draw(*(f"{place}/{n}.png" for n in ROWS))
    pyarrow.parquet.write_table(
        pa.table({"file": [f"{n}.png" for n in ROWS], "label": list(ROWS.values())}), root / "labels.parquet"
    )
    found = read(source, root)
    assert (labelled(found), found.warnings) == (ROWS, [])
