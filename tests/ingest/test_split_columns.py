"""What tables say of splits is used, or refused in a line: no test picture is trained on because a word is unknown."""

import pytest

from ims3core.errors import DataError

NAMES = ("ant", "bee", "cat")
ROWS = {f"{n:02d}": NAMES[n % 3] for n in range(12)}
TEST = ("09", "10", "11")


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n", encoding="utf-8")


def split_table(root, column, train, test, extra=None):
    """images/00.png ... and a table that says the split; ``extra``: picture -> another word."""
    words = {n: test if n in TEST else train for n in ROWS} | (extra or {})
    write(root / "l.csv", ["file", "label", column], [(f"{n}.png", ROWS[n], word) for n, word in words.items()])


def by_split(listing):
    """Split -> the stems of its pictures."""
    found = {}
    for origin, split in zip(listing.origins, listing.splits, strict=True):
        found.setdefault(split, []).append(origin.rsplit("/", 1)[-1].split(".")[0])
    return {split: sorted(stems) for split, stems in found.items()}


DIVIDED = {"train": sorted(set(ROWS) - set(TEST)), "test": list(TEST)}


@pytest.fixture
def images(draw):
    return draw(*(f"images/{n}.png" for n in ROWS))


@pytest.mark.parametrize(
    ("column", "train", "test"),
    [("split", "train ", " Test"), ("Usage", "Training", "PublicTest"), ("partition", "TRAIN", "testing"),
     ("phase", "train", "test"), ("dataset", "train", "test"), ("which", "train", "test"), ("kind of row", "training", "TEST")],
)  # fmt: skip
def test_a_column_of_splits_is_known_by_its_name_or_its_words(images, read, column, train, test):
    """Kaggle's Usage, capitals and blanks, and columns of other names that hold nothing but names of splits."""
    split_table(images, column, train, test)
    assert by_split(read("imagefolder", images)) == DIVIDED


@pytest.mark.parametrize(
    ("column", "train", "test", "extra", "says"),
    [
        ("split", "train", "holdout", {}, r"row 11 has 'holdout' in the column 'split', wanted train, validation or test; data\.splits says"),
        ("partition", "0", "1", {}, r"row 2 has '0' in the column 'partition'"),
        ("split", "train", "test", {"03": ""}, "row 5 has nothing in the column 'split', wanted a split in every row"),
        ("Usage", "Training", "PublicTest", {"11": "PrivateTest"}, r"'PrivateTest' and 'PublicTest' in the column 'Usage' are both test; data\.splits chooses"),
        ("set", "train", "test", {"07": "x"}, "row 9 has 'x' in the column 'set'"),
        ("which", "train", "test", {"07": "x"}, "row 9 has 'x' in the column 'which'"),
    ],
)  # fmt: skip
def test_a_split_of_another_name_is_refused_with_its_row(images, read, column, train, test, extra, says):
    """One strange or missing word does not make a column of splits something else."""
    split_table(images, column, train, test, extra)
    with pytest.raises(DataError, match=rf"l\.csv: {says}"):
        read("imagefolder", images)


@pytest.mark.parametrize("column", ["split", "dataset", "origin"])
def test_a_column_that_says_one_thing_of_all_rows_divides_nothing(images, read, column):
    """All rows are from one source, or all of one split."""
    split_table(images, column, "vidir", "vidir")
    assert by_split(read("imagefolder", images)) == {"all": list(ROWS)}


def test_a_column_dataset_of_other_words_is_where_pictures_are_from(images, read):
    """As in HAM10000, whose column names four clinics."""
    split_table(images, "dataset", "vidir_modern", "rosendahl")
    assert by_split(read("imagefolder", images)) == {"all": list(ROWS)}


@pytest.mark.parametrize("column", ["fold", "Folds"])
def test_folds_are_not_used_and_that_is_said(images, read, column):
    """Neither as splits nor in doubt about the label."""
    write(images / "l.csv", ["file", "breed", column], [(n, k, int(n) % 5) for n, k in ROWS.items()])
    found = read("imagefolder", images)
    assert (by_split(found), found.names) == ({"all": list(ROWS)}, list(NAMES))
    assert [f"the column '{column}' is not used" in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize("table", [None, "l.csv"])
@pytest.mark.parametrize(
    ("train", "test", "chosen"),
    [("train", "holdout", {"train": "train", "test": "holdout"}), ("train", "test", {"train": "Train", "test": "Test"}),
     ("0", "2", {"train": "0", "test": "2"})],
)  # fmt: skip
def test_data_splits_names_words_of_a_column(images, read, train, test, chosen, table):
    """With and without data.table, and in other capitals."""
    split_table(images, "split", train, test)
    assert by_split(read("imagefolder", images, splits=chosen, table=table)) == DIVIDED


@pytest.mark.parametrize("table", [None, "l.csv"])
def test_splits_that_data_splits_does_not_name_are_left_out_and_counted(images, read, table):
    """A third word of the column; its pictures are not missed as those without a row."""
    split_table(images, "split", "train", "val", {"02": "test", "05": "test"})
    found = read("imagefolder", images, splits={"train": "train", "test": "val"}, table=table)
    assert by_split(found) == {"train": ["00", "01", "03", "04", "06", "07", "08"], "test": list(TEST)}
    assert found.warnings == ["l.csv: splits that data.splits does not name are left out: test (2 rows)"]


def test_a_split_that_no_column_and_no_folder_has_is_named(images, read):
    split_table(images, "split", "train", "test")
    with pytest.raises(DataError, match=r"data\.splits: .*: no split 'val'; found train"):
        read("imagefolder", images, splits={"train": "train", "test": "val"})
    (images / "l.csv").unlink()
    with pytest.raises(DataError, match=r"data\.splits: \S+: no split 'train'; found images"):
        read("imagefolder", images, splits={"train": "train", "test": "val"})


def test_rows_of_one_picture_agree_on_its_split(images, read):
    write(images / "l.csv", ["file", "label", "split"],
          [*((n, k, "test" if n in TEST else "train") for n, k in ROWS.items()), ("00", "ant", "test")])  # fmt: skip
    with pytest.raises(DataError, match="00 is in the splits 'train' in row 2 and 'test' in row 14"):
        read("imagefolder", images)


def test_rows_whose_picture_is_lost_keep_their_split(images, read):
    """Left out later with data.skip_unreadable, they do not stand in for a picture without a split."""
    split_table(images, "split", "train", "test")
    with (images / "l.csv").open("a") as stream:
        stream.write("gone.png,ant,test\n")
    found = read("imagefolder", images, skip_unreadable=True)
    assert by_split(found) == DIVIDED | {"test": [*TEST, "gone"]}


# Tables beside class folders ----------------------------------------------------------------------------------------


@pytest.fixture
def classes(draw):
    return draw(*(f"{k}/{n}.png" for n, k in ROWS.items()))


def path_of(n):
    return f"{ROWS[n]}/{n}.png"


@pytest.mark.parametrize("kind", ["two tables", "a column", "no labels", "only the test"])
def test_tables_divide_class_folders(classes, read, kind):
    """As EuroSAT's train.csv and test.csv do; without labels, and where all pictures not in test.csv are to train on."""
    if kind in ("two tables", "only the test"):
        for split, stems in DIVIDED.items():
            if split == "test" or kind == "two tables":
                write(classes / f"{split}.csv", ["Filename", "Label", "ClassName"],
                      [(path_of(n), NAMES.index(ROWS[n]), ROWS[n]) for n in stems])  # fmt: skip
    elif kind == "a column":
        write(classes / "split.csv", ["file", "label", "split"],
              [(path_of(n), ROWS[n], split) for split, stems in DIVIDED.items() for n in stems])  # fmt: skip
    else:
        write(
            classes / "split.csv", ["file", "split"], [(path_of(n), s) for s, stems in DIVIDED.items() for n in stems]
        )
    found = read("imagefolder", classes)
    assert (by_split(found), found.names) == (DIVIDED, list(NAMES))
    assert ["pictures of the class folders are divided as" in warning for warning in found.warnings] == [True]


def test_tables_that_divide_some_pictures_of_class_folders_are_named(classes, read):
    """Nothing is known of the others, so the line says that the tables are not used."""
    for split, stems in DIVIDED.items():
        write(classes / f"{split}.csv", ["file", "label"], [(path_of(n), ROWS[n]) for n in stems if n > "02"])
    found = read("imagefolder", classes)
    assert by_split(found) == {"all": list(ROWS)}
    assert "test.csv, train.csv divide 9 of the 12 pictures" in found.warnings[0]


@pytest.mark.parametrize("word", ["holdout", ""])
def test_a_strange_split_beside_class_folders_is_refused(classes, read, word):
    """Read without it, the pictures of the table's test split would be trained on."""
    write(classes / "split.csv", ["file", "label", "split"],
          [(path_of(n), ROWS[n], word if s == "test" else s) for s, stems in DIVIDED.items() for n in stems])  # fmt: skip
    with pytest.raises(DataError, match=r"split\.csv: row 11 has .* in the column 'split'"):
        read("imagefolder", classes)
    if word:
        assert by_split(read("imagefolder", classes, splits={"train": "train", "test": word})) == DIVIDED


# Several tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "test"), [("labels_a", "labels_eval"), ("train", "holdout"), ("a", "hold_out")])
def test_tables_named_like_a_split_that_we_do_not_know_are_refused(images, read, train, test):
    """Pooled with the others, their pictures would be trained on; data.splits takes the names of tables."""
    for name, stems in ((train, DIVIDED["train"]), (test, TEST)):
        write(images / f"{name}.csv", ["file", "label"], [(n, ROWS[n]) for n in stems])
    with pytest.raises(DataError, match=rf"{test}\.csv beside {train}\.csv: is (eval|holdout) a split\?"):
        read("imagefolder", images)
    assert by_split(read("imagefolder", images, splits={"train": train, "test": test})) == DIVIDED


def test_tables_whose_names_say_nothing_are_read_together(images, read):
    for name, stems in (("part1", DIVIDED["train"]), ("part2", TEST)):
        write(images / f"{name}.csv", ["file", "label"], [(n, ROWS[n]) for n in stems])
    assert by_split(read("imagefolder", images)) == {"all": list(ROWS)}


# Class folders to train on, and a table for the other splits --------------------------------------------------------


def test_class_folders_are_joined_by_a_table_for_flat_splits(draw, read):
    """train/<class> and test/ with test.csv, also with val/ and val.csv: nothing of train is lost."""
    root = draw(*(f"{case}/train/{k}/{n}.png" for case in "ab" for n, k in ROWS.items()),
                *(f"{case}/test/t{n}.png" for case in "ab" for n in ROWS), *(f"b/val/v{n}.png" for n in ROWS))  # fmt: skip
    for place in ("a/test", "b/test", "b/val"):
        letter = place[2]
        write(root / f"{place}.csv", ["file", "label"], [(f"{letter}{n}.png", k) for n, k in ROWS.items()])
    for case in "ab":
        found = read("imagefolder", root / case)
        expected = {"train": list(ROWS), "test": [f"t{n}" for n in ROWS]}
        assert by_split(found) == expected | ({"validation": [f"v{n}" for n in ROWS]} if case == "b" else {})
        assert [found.names[label] for label in found.labels] == [ROWS[o.split("/")[-1][-6:-4]] for o in found.origins]
        assert found.warnings == []


def test_a_table_for_a_flat_split_with_labels_of_its_own_is_refused(draw, read):
    """Numbers in the table, names in the folders."""
    root = draw(*(f"train/{k}/{n}.png" for n, k in ROWS.items()), *(f"test/t{n}.png" for n in ROWS))
    write(root / "test.csv", ["file", "label"], [(f"t{n}.png", NAMES.index(k)) for n, k in ROWS.items()])
    with pytest.raises(DataError, match="has the label '0', which is no class folder \\(ant, bee, cat\\)"):
        read("imagefolder", root)
