"""What one table says: the label and the split of every picture that a row names."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ims3core.base.library_errors import translate_errors
from ims3core.data.spreadsheet import SHEETS, read_columns
from ims3core.errors import DataError, some
from ims3core.ingest import file_columns, label_columns, split_columns
from ims3core.ingest.picture_names import PictureNames, clean, role_of_folders
from ims3core.ingest.split_columns import SplitColumn, SplitError

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", *SHEETS)
OBJECTS = (".jsonl", ".ndjson", ".json")  # without a header, so that the first row is row 1


@dataclass(frozen=True)
class Lost:
    """A row whose picture is not there: where it should be below the data, and what the row says."""

    name: str
    label: str
    row: int
    split: str


@dataclass
class Labelled:
    """What one table says.

    Attributes:
        path: the table.
        pictures: file number -> (label, row).
        splits: file number -> the split that a column says, "" without one.
        lost: rows whose picture is not there.
        unlabelled: rows without a label.
        others: what a column says of rows in none of the splits that ``data.splits`` names -> how many rows.
        passed: numbers of the files that these rows name.
        notes: what the user should know.
    """

    path: Path
    pictures: dict[int, tuple[str, int]] = field(default_factory=dict)
    splits: dict[int, str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    passed: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Rows:
    """The rows of a table: names of pictures, their labels (None: not said) and splits, and the first one's number."""

    cells: list[Any]
    front: str
    labels: list[str] | None
    splits: SplitColumn | None
    first: int


def read(
    section: Any, table: Path, root: Path, files: list[Path], *, classes: Collection[str] | None = None,
    known: Mapping[int, str] | None = None,
) -> Labelled | None:  # fmt: skip
    """What ``table`` says of the ``files`` below ``root``; None where no column of it names them.

    Args:
        classes: names, :func:`normal`, that ``data.classes`` gives.
        known: file number -> its class folder, for a table that says splits only.

    Raises:
        DataError: the table names pictures, and what else it says is not clear.
    """
    place = f"data.table: {table}"
    try:
        with translate_errors(str(table)):
            columns = read_columns(table)
    except DataError as error:
        raise DataError(f"data.table: {error}") from error
    numbers = [n for n, file in enumerate(files) if file.suffix.lower() not in ENDINGS]
    paths = [files[n].relative_to(root).as_posix() for n in numbers]
    folder = table.parent.relative_to(root).as_posix() if table.parent.is_relative_to(root) else "."
    role = role_of_folders(f"{folder}/x") or split_columns.role_of_table(table) or None
    names = PictureNames(paths, folder="" if folder == "." else folder, role=role)
    rows, notes = _rows(section, columns, names, root, table, sure=known is None)
    if rows is None:
        return None
    found = Labelled(table, notes=notes)
    _fill(found, rows, names, paths, {at: known[n] for at, n in enumerate(numbers) if n in known} if known else {})
    found.pictures = {numbers[at]: said for at, said in found.pictures.items()}
    found.splits = {numbers[at]: split for at, split in found.splits.items()}
    found.passed = {numbers[at] for at in found.passed}
    label_columns.check_single(found.pictures, classes, place)
    if not found.pictures and not found.lost and found.unlabelled:
        raise DataError(f"{place}: none of its {len(found.unlabelled):,} rows has a label; data.label_column chooses "
                        "another column")  # fmt: skip
    return found


def _rows(
    section: Any, columns: dict[str, list[Any]], names: PictureNames, root: Path, table: Path, *, sure: bool
) -> tuple[_Rows | None, list[str]]:
    """The rows of a table by what its columns are, with notes; None where no column names pictures.

    Args:
        sure: labels are wanted; else a table of names and splits will do.
    """
    place, first = f"data.table: {table}", 1 if table.suffix.lower() in OBJECTS else 2
    files = file_columns.find(columns, names, root.name, (section.image_column, section.label_column), place)
    if files is None:
        return None, []
    column = files.name
    if file_columns.is_row(files, columns[column], names):
        columns = {str(n): [name, *cells] for n, (name, cells) in enumerate(columns.items(), start=1)}
        column, first = next(key for key, cells in columns.items() if cells[0] == column), 1
    usual = {name for name in columns if name.lower() in label_columns.LABELS}
    splits = split_columns.find(columns, {column, section.label_column, *usual}, section.splits, place)
    taken = {column, splits.name if splits else None}
    notes = [
        f"{table.name}: the column {name!r} is not used; test and validation are drawn from the seed"
        for name in columns
        if name.lower() in split_columns.FOLDS and splits is None and name not in (*taken, section.label_column)
    ]
    try:
        labels = label_columns.labels(columns, taken, section.label_column, place, first)
    except DataError:
        if sure or not files.rank[0] or not (splits or split_columns.role_of_table(table)):
            raise
        return _Rows(columns[column], files.front, None, splits, first), notes
    return _Rows(columns[column], files.front, labels, splits, first), notes


def _fill(found: Labelled, rows: _Rows, names: PictureNames, paths: list[str], known: Mapping[int, str]) -> None:
    """Puts every row into ``found``, with the numbers of ``paths``.

    Raises:
        DataError: a row that can mean several pictures, or two rows that differ about one.
    """
    place, eaten = f"data.table: {found.path}", ""
    for number, cell in enumerate(rows.cells):
        row, name = number + rows.first, clean(cell).removeprefix(rows.front)
        meant = names.find(name)
        label = rows.labels[number] if rows.labels is not None else known.get(meant[0], "") if meant else ""
        if label == "":
            found.unlabelled.append(row)
            continue
        split = rows.splits.of(place, number, row) if rows.splits else ""
        if split is None and rows.splits is not None:
            found.others[rows.splits.texts[number]] += 1
            found.passed.update(meant)
        elif len(meant) > 1:
            raise DataError(f"{place}: row {row}: {name!r} can be {some([paths[n] for n in meant], 2)}; data.path "
                            f"chooses the folder of the pictures, with data.table: {found.path}")  # fmt: skip
        elif not meant:
            found.lost.append(Lost(_below(name), label, row, split or ""))
        else:
            if not eaten and names.by_number(name):
                eaten = (
                    f"{found.path.name}: {name} in row {row} is taken for {paths[meant[0]]}, and so on: zeros at the "
                )
                found.notes.append(f"{eaten}front are lost, as spreadsheets do it")
            _set(found, meant[0], (label, row), split or "", name)


def _set(found: Labelled, number: int, said: tuple[str, int], split: str, name: str) -> None:
    """Notes what a row says of a picture, and refuses another label or split of it."""
    place, (label, row) = f"data.table: {found.path}", said
    before, at = found.pictures.setdefault(number, said)
    if before != label:
        raise DataError(f"{place}: {name} has the labels {before!r} in row {at} and {label!r} in row {row}, "
                        "wanted one label a picture")  # fmt: skip
    if (other := found.splits.setdefault(number, split)) != split:
        raise SplitError(f"{place}: {name} is in the splits {other!r} in row {at} and {split!r} in row {row}, "
                         "wanted one split a picture")  # fmt: skip


def _below(name: str) -> str:
    """A cleaned name as a path below the data, wherever the table says that it begins."""
    return re.sub(r"^(\.\.?/)+", "", posixpath.normpath(name)).lstrip("/")
