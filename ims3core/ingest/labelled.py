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
from ims3core.ingest import file_columns, folders, label_columns, split_columns
from ims3core.ingest.folders import is_picture
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
            columns = _by_file(read_columns(table))
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
    folder_of = {at: known[n] for at, n in enumerate(numbers) if n in known} if known else {}
    _fill(found, rows, names, (root, paths), folder_of)
    found.pictures = {numbers[at]: said for at, said in found.pictures.items()}
    found.splits = {numbers[at]: split for at, split in found.splits.items()}
    found.passed = {numbers[at] for at in found.passed}
    label_columns.check_single(found.pictures, classes, place)
    if not found.pictures and not found.lost and found.unlabelled:
        raise DataError(f"{place}: none of its {len(found.unlabelled):,} rows has a label; data.label_column chooses "
                        "another column")  # fmt: skip
    return found


def _by_file(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of a table; of an object that has the pictures of each class in a list, with a row for each."""
    names, lists = columns.get("file_name", []), columns.get("label", [])
    if len(columns) > 2 or not lists or not all(isinstance(found, list) for found in lists):
        return columns
    inner = [str(cell) for found in lists for cell in found]
    if any(map(_is_file, map(str, names))) or not inner or not all(map(_is_file, inner)):
        return columns
    owners = [name for name, found in zip(names, lists, strict=True) for _ in found]
    return {"file_name": inner, "label": owners}


def _is_file(name: str) -> bool:
    return "/" in name or is_picture(name)


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


def _fill(
    found: Labelled, rows: _Rows, names: PictureNames, place_of: tuple[Path, list[str]], known: Mapping[int, str]
) -> None:  # fmt: skip
    """Puts every row into ``found``, with the numbers of the paths in ``place_of``, which lie below its folder.

    Raises:
        DataError: a row that can mean several pictures, or two rows that differ about one.
    """
    (root, paths), place, eaten, twins = place_of, f"data.table: {found.path}", "", list[str]()
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
        elif len(meant) > 1 and not _are_copies(names, meant, root, paths):
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
            twins += [paths[n] for n in meant[1:] if n not in found.passed]
            found.passed.update(meant[1:])
            _set(found, meant[0], (label, row), split or "", name)
    if twins:
        found.notes.append(f"{found.path.name}: {len(twins):,} pictures lie there a second time with the same bytes, "
                           f"and are left out: {some(twins, 2)}")  # fmt: skip


def _are_copies(names: PictureNames, meant: list[int], root: Path, paths: list[str]) -> bool:
    """Whether files are one picture: the same bytes, in folders of one split."""
    return len({names.role(n) for n in meant}) == 1 and folders.are_copies([root / paths[n] for n in meant])


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
