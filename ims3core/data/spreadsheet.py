"""Reads tables that users wrote, as editors, spreadsheets and scripts save them."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError, some, visible

SEPARATORS = ",;\t|"
SAMPLE = 200  # rows that show what separates the cells
SHEETS = (".xlsx", ".xls", ".ods")


def read_table(path: Path, columns: tuple[str, ...], *, needed: str) -> list[dict[str, str]]:
    """The rows of a table with the columns ``needed`` and those of ``columns`` that are there, without blank rows.

    UTF-8 with or without a byte order mark, UTF-16 with one, else Windows' cp1252; commas, semicolons, tabs or bars, or
    what Excel's first line ``sep=`` names. Spaces around a value, capitals in the names of columns and empty cells at
    the end of a row mean nothing. A column that
    is missing or empty gives "".

    Raises:
        DataError: naming the file and what was found, with what cannot be seen written out.
    """
    table, separator = read_cells(path, wanted=f"a table with the columns {', '.join(columns)}")
    names = [name.lower() for name in _without_empty_end(table[0])]
    if needed not in names or not set(names) <= set(columns) or len(set(names)) != len(names):
        header = ", ".join(repr(visible(name))[:40] for name in names)
        unknown = [name for name in names if name not in columns] if needed in names else []
        which = f" ({', '.join(map(repr, unknown))} is none of them)" if unknown else ""
        raise DataError(f"{path}: found the columns {header}; wanted a header with {', '.join(columns)}{which}")
    rows = []
    for number, row in enumerate(table[1:], start=2):
        row = _without_empty_end(row)
        if len(row) > len(names):
            raise DataError(
                f"{path}: row {number} has {len(row)} cells, the header {len(names)}; a separator inside a value "
                "wants quotes around it"
            )
        rows.append(dict.fromkeys(columns, "") | dict(zip(names, row, strict=False)))
        if not rows[-1][needed]:
            raise DataError(f"{path}: row {number} is without {needed}: {separator.join(row)[:80]!r}")
    if not rows:
        raise DataError(f"{path}: a header and no rows")
    return rows


def read_cells(path: Path, *, wanted: str = "a table") -> tuple[list[list[str]], str]:
    """All cells of a table without its blank rows, the header first, and what separates them."""
    text, named = _text(path), None
    if excel := re.match(r'\s*"?sep=(.)"?\s*\r?\n', text):
        text, named = text[excel.end() :], excel[1]
    if not text.strip(f" \r\n{SEPARATORS}"):
        raise DataError(f"{path}: an empty file, wanted {wanted}")
    try:
        separator = named or _separator(text)
        table = list(_rows(text, separator))
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    return [row for row in table if any(row)], separator


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    """The rows of a table; a row ends at the end of a line only, not at what else Unicode takes for one."""
    for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != " "):
        yield [cell.strip() for cell in row]


def _separator(text: str) -> str:
    """What separates the cells: that with which most of the first rows have as many as the header, else the usual."""

    def fits(separator: str) -> tuple[int, int]:
        rows = list[list[str]]()
        with contextlib.suppress(csv.Error):  # a cell without end, by a separator that is none
            rows = [row for row in itertools.islice(_rows(text, separator), SAMPLE) if any(row)]
        widths = [len(_without_empty_end(row)) for row in rows] or [1]
        return (widths.count(widths[0]) if widths[0] > 1 else 0, widths[0])

    return max(SEPARATORS, key=fits)


def read_columns(path: Path) -> dict[str, list[Any]]:
    """The cells of a table of any usual format by column; None or "" where a row has none.

    Raises:
        DataError: naming the file and what was found.
    """
    ending = path.suffix.lower()
    if ending in SHEETS:
        raise DataError(f"{path}: a spreadsheet, wanted it saved as CSV")
    if ending == ".parquet":
        import pyarrow.parquet

        return dict(pyarrow.parquet.read_table(path).to_pydict())
    if ending in (".json", ".jsonl", ".ndjson"):
        return _by_key(path, _json_objects(path))
    cells, _ = read_cells(path)
    header = [name or f"column {n}" for n, name in enumerate(_without_empty_end(cells[0]), start=1)]
    if len(set(header)) != len(header):
        raise DataError(f"{path}: found the columns {some(header)}, wanted each name once")
    for number, row in enumerate(cells[1:], start=2):
        if len(row) > len(header) and any(row[len(header) :]):
            raise DataError(f"{path}: row {number} has {len(row)} cells, the header {len(header)}; a separator "
                            "inside a value wants quotes around it")  # fmt: skip
    return {name: [row[n] if n < len(row) else "" for row in cells[1:]] for n, name in enumerate(header)}


def _json_objects(path: Path) -> list[Any]:
    """The objects of a JSON file, or one from every line."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        whole = json.loads(text)
        if isinstance(whole, dict) and all(_is_label(value) for value in whole.values()):
            return [{"file_name": name, "label": label} for name, label in whole.items()]
        return whole if isinstance(whole, list) else [whole]
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        with translate_errors(f"{path}: row {number}"):
            rows += [json.loads(line)] if line.strip() else []
    return rows


def _is_label(value: Any) -> bool:
    """Whether a value of a JSON object can be what a picture is: a word, a number, or a list of those."""
    return isinstance(value, str | int | None) or (isinstance(value, list) and all(map(_is_label, value)))


def _by_key(path: Path, rows: list[Any]) -> dict[str, list[Any]]:
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: wanted objects such as {{'file_name': ..., 'label': ...}}, one a picture")
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if content and (kind := disguised_as(content) or format_of(content, pictures=True)) and "text" not in kind:
        raise DataError(f"{path}: {kind}, wanted a table as CSV")
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise DataError(f"{path}: its encoding begins as UTF-16 and does not go on so; save it as UTF-8") from error
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise DataError(f"{path}: its encoding is neither UTF-8, UTF-16 nor cp1252; save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path}: its encoding is not that of a text (it holds zero bytes); save it as UTF-8")
    return text


def _without_empty_end(row: list[str]) -> list[str]:
    """A row without the empty cells at its end."""
    while row and not row[-1]:
        row = row[:-1]
    return row
