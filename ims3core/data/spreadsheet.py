"""Reads tables that users wrote, as editors and spreadsheets save them."""

from __future__ import annotations

import csv
from pathlib import Path

from ims3core.errors import DataError, visible

SEPARATORS = ",;\t"


def read_table(path: Path, columns: tuple[str, ...], *, needed: str) -> list[dict[str, str]]:
    """The rows of a table with the columns ``needed`` and those of ``columns`` that are there, without blank rows.

    UTF-8 with or without a byte order mark, UTF-16 with one, else Windows' cp1252; commas, semicolons or tabs. Spaces
    around a value, capitals in the names of columns and empty cells at the end of a row mean nothing. A column that
    is missing or empty gives "".

    Raises:
        DataError: naming the file and what was found, with what cannot be seen written out.
    """
    text = _text(path)
    lines = text.splitlines()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: an empty file, wanted a table with the columns {', '.join(columns)}")
    header = next(line for line in lines if line.strip())
    separator = max(SEPARATORS, key=header.count)
    try:
        read = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        table = [[cell.strip() for cell in row] for row in read]
    except csv.Error as error:
        raise DataError(f"{path}: {error}") from error
    table = [row for row in table if any(row)]
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


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
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
