"""Tables as spreadsheets write them: read where nothing is in doubt, else a line that shows what is invisible."""

import itertools

import pytest

from ims3core.data.spreadsheet import read_columns, read_table
from ims3core.errors import DataError
from ims3core.ingest import classes

COLUMNS = ("folder", "human_name", "generator_label")
ROWS = [("Käfer", "a beetle", "304"), ("ant", "", "310"), ("bee, wild", "bee", "309")]


def text(separator=",", end="\n", header=COLUMNS):
    quoted = [[f'"{cell}"' if separator in cell or " " in cell else cell for cell in row] for row in ROWS]
    return end.join(separator.join(row) for row in [header, *quoted]) + end


@pytest.mark.parametrize(
    ("separator", "end", "encoding"),
    list(itertools.product(",;\t", ["\n", "\r\n"], ["utf-8", "utf-8-sig", "utf-16", "cp1252"])),
)
def test_every_dialect_gives_the_same_rows(tmp_path, separator, end, encoding):
    (tmp_path / "c.csv").write_bytes(text(separator, end).encode(encoding))
    found = read_table(tmp_path / "c.csv", COLUMNS, needed="folder")
    assert [tuple(row.values()) for row in found] == ROWS


@pytest.mark.parametrize(
    "content",
    ["folder,generator_label\nant,1\n\n,,\n bee , 2 \n", "Folder, Generator_Label\nant, 1,,\nbee, 2.0\n\n\n",
     "\n\ngenerator_label;folder\n1;ant\n2;bee\n;\n"],
)  # fmt: skip
def test_blank_rows_blanks_and_capitals_mean_nothing(tmp_path, content):
    (tmp_path / "c.csv").write_text(content)
    rows = classes.class_table(["ant", "bee"], str(tmp_path / "c.csv"), trained=False)
    assert [(row.name, row.generator_label) for row in rows] == [("ant", 1), ("bee", 2)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"), (b" \n\n", "an empty file"), (b"folder\n", "a header and no rows"),
        (b"ant\nbee\n", "found the columns 'ant'; wanted a header with folder"),
        (b"folder,notes\nant,x\n", r"\('notes' is none of them\)"), (b"folder,folder\nant,x\n", "found the columns 'folder', 'folder'"),
        (b"folder,human_name\nant,a,b\n", "row 2 has 3 cells, the header 2"), (b"folder,human_name\n,a\n", "row 2 is without folder"),
        (b"\xff\xfef\x00o", "its encoding"), (b"folder\nK\x81fer\n", "its encoding is neither"), (b"folder\na\0b\n", "zero bytes"),
        (b"folder,generator_label\nant,1.5\n", r"class ant has generator_label '1\.5', wanted a whole number"),
        (b"folder,generator_label\nant,\xb2\n", "generator_label '.', wanted a whole number"),
        (b"folder,generator_label\nant,-1\n", "generator_label '-1', wanted a whole number"),
        (b"folder,generator_label\nant,7\nbee,7\n", "ant and bee both have generator_label 7"),
        (b"folder\nant\nant\n", "folder 'ant' stands there 2 times"), (b"folder\nwasp\n", "no folder: wasp; there are ant, bee"),
    ],
)  # fmt: skip
def test_what_is_in_doubt_is_one_line(tmp_path, content, says):
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"c\.csv.*{says}|data\.classes: .*{says}") as caught:
        classes.class_table(["ant", "bee"], str(tmp_path / "c.csv"), trained=False)
    assert str(caught.value).isprintable()


def test_one_name_spelt_in_two_ways_is_one_name(tmp_path):
    """One letter in the folder, a letter and an accent in the list; and an ending in capitals."""
    (tmp_path / "c.CSV").write_text("folder,generator_label\nKa\u0308fer,3\n", encoding="utf-8")
    rows = classes.class_table(["K\u00e4fer"], str(tmp_path / "c.CSV"), trained=False)
    assert [(row.name, row.generator_label) for row in rows] == [("K\u00e4fer", 3)]
    assert classes.listed(str(tmp_path / "c.CSV")) == {"K\u00e4fer"}


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\u2029", "\x1c"])
def test_only_the_end_of_a_line_ends_a_row(tmp_path, mark):
    """What else Unicode takes for the end of a line is part of a cell, in CSV and in JSON by lines."""
    (tmp_path / "c.csv").write_text(
        f"file,caption,label\r\na,x{mark}y,ant\r\nb,xy,bee\r\n", encoding="utf-8", newline=""
    )
    (tmp_path / "c.jsonl").write_text(
        f'{{"file": "a", "caption": "x{mark}y", "label": "ant"}}\r\n{{"file": "b", "caption": "xy", "label": "bee"}}\n'
        if mark not in "\x0b\x1c"
        else '{"file": "a", "caption": "x\\u000by", "label": "ant"}\n{"file": "b", "caption": "xy", "label": "bee"}',
        encoding="utf-8",
        newline="",
    )
    for name in ("c.csv", "c.jsonl"):
        found = read_columns(tmp_path / name)
        assert (found["file"], found["label"]) == (["a", "b"], ["ant", "bee"])
    assert read_columns(tmp_path / "c.csv")["caption"] == [f"x{mark}y", "xy"]


@pytest.mark.parametrize(
    "content",
    ["file|label\na,b|ant\nc;d|bee\n", "sep=;\nfile;label\na,b;ant\nc;d;bee\n".replace("c;d", '"c;d"'),
     '"sep=|"\r\nfile|label\r\na,b|ant\r\nc;d|bee\r\n', 'file\tlabel\na,b\tant\nc;d\tbee\n'],
)  # fmt: skip
def test_what_separates_the_cells_is_found_or_named(tmp_path, content):
    """Bars, tabs, and Excel's first line, whatever else stands in the cells."""
    (tmp_path / "c.csv").write_text(content, newline="")
    assert read_columns(tmp_path / "c.csv") == {"file": ["a,b", "c;d"], "label": ["ant", "bee"]}


@pytest.mark.parametrize("header", ["file;label (ant, bee, wasp)", "a,b,c,d;e"])
def test_marks_in_the_header_do_not_separate_where_they_do_not_in_the_rows(tmp_path, header):
    """The separator is what cuts the rows into as many cells as the header."""
    (tmp_path / "c.csv").write_text(f"{header}\nx;ant\ny;bee\n")
    assert list(read_columns(tmp_path / "c.csv").values()) == [["x", "y"], ["ant", "bee"]]


def test_rows_that_end_as_on_old_machines_or_inside_quotes(tmp_path):
    """Carriage returns alone end rows; a line that ends inside quotes does not."""
    (tmp_path / "c.csv").write_text('file,label\ra,"two\nlines"\rb,bee\r', newline="")
    assert read_columns(tmp_path / "c.csv") == {"file": ["a", "b"], "label": ["two\nlines", "bee"]}


def test_columns_without_a_name_are_called_by_their_place(tmp_path):
    """The index that pandas writes, and a hole between two columns."""
    (tmp_path / "c.csv").write_text(",file,,label\n0,a,x,ant\n1,b,y,bee\n")
    assert list(read_columns(tmp_path / "c.csv")) == ["column 1", "file", "column 3", "label"]
