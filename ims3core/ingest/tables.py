"""Labels in a table beside the pictures: metadata.csv or .jsonl, a competition's labels.csv, lists of paths."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.data.spreadsheet import SHEETS, read_columns
from ims3core.errors import DataError, some
from ims3core.ingest import folders
from ims3core.ingest.listing import Listing, folder_names, role_named, roles, roles_in
from ims3core.ingest.picture_names import PictureNames, clean, droppable, role_of_folders

LABELS = ("label", "labels", "class", "target", "category", "class_name", "label_name")
FILES = r"(^|[^a-z])(id|ids|image|img|file|path|name|picture|photo)"  # names of columns of file names
SPLITS = ("split", "data set", "dataset", "data_set", "subset", "set", "partition")
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", *SHEETS)
MOST_TABLES = 20  # more files of these endings are one per picture
SAMPLE = 2000  # rows that show which column names the pictures


@dataclass
class Labelled:
    """What one table says.

    Attributes:
        path: the table.
        pictures: file number -> (label, row).
        splits: file number -> the split that a column says, "" without one.
        lost: (name, label, row) of rows whose picture is not there.
        unlabelled: rows without a label.
    """

    path: Path
    pictures: dict[int, tuple[str, int]] = field(default_factory=dict)
    splits: dict[int, str] = field(default_factory=dict)
    lost: list[tuple[str, str, int]] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)


def read(section: Any, root: Path) -> Listing:
    """The pictures below ``root`` with the labels of ``data.table``."""
    table = Path(section.table).expanduser()
    table = table if table.is_file() else root / table
    with translate_errors(f"data.path: {root}"):
        files = folders.files_below(root)
    if not table.is_file():
        there = some([str(file.relative_to(root)) for file in files if file.suffix.lower() in ENDINGS]) or "none"
        raise DataError(f"data.table: {section.table}: no such file; tables below {root}: {there}")
    found = _labelled(section, table, root, files)
    if found is None:
        raise DataError(f"data.table: {table}: no column names pictures below {root} ({folders.content(root)})")
    return _listing(section, root, files, [found])


def is_candidate(file: Path) -> bool:
    """Whether a file may be a table of labels by its name: no parquet file of images, no answers of a competition."""
    if file.name.startswith(".") or "submission" in file.stem.lower():
        return False
    ending = file.suffix.lower()
    return ending in ENDINGS and (ending != ".parquet" or file.stem.lower() == "metadata") and file.is_file()


def disagreeing(section: Any, root: Path, listing: Listing) -> list[str]:
    """A warning for tables directly in ``root`` that divide the pictures otherwise than their folders do."""
    beside = [file.name for file in sorted(root.iterdir()) if is_candidate(file)]
    found = None
    with contextlib.suppress(DataError, OSError):  # a table that cannot be used is not missed
        found = find(section, root) if beside else None
    if found is None:
        return []
    folder_of = dict(zip(listing.origins, listing.labels.tolist(), strict=True))
    labels = zip(found.origins, found.labels.tolist(), strict=True)
    pairs = {(folder_of[file], label) for file, label in labels if file in folder_of}
    if len(pairs) == len({folder for folder, _ in pairs}) == len({label for _, label in pairs}):
        return []
    return [f"classes are the folders of {root}; {some(beside, 2)} has other labels for them, which data.table reads"]


def find(section: Any, root: Path) -> Listing | None:
    """The pictures below ``root`` with the labels of the tables that lie there; None where none names a picture.

    Raises:
        DataError: tables name pictures, and what else they say is not clear.
    """
    files = folders.files_below(root)
    beside = [file for file in files if is_candidate(file)]
    labelled, doubts = list[Labelled](), list[DataError]()
    for table in beside if len(beside) <= MOST_TABLES else ():
        try:
            found = _labelled(section, table, root, files)
        except DataError as error:
            doubts.append(error)
        else:
            labelled += [found] if found is not None else []
    if doubts and not labelled:
        raise doubts[0]
    owner: dict[int, Path] = {}
    for one in labelled:
        for number in one.pictures:
            if (other := owner.setdefault(number, one.path)) != one.path:
                raise DataError(f"data.path: {root}: {other.name} and {one.path.name} both have a label of "
                                f"{files[number].name}; data.table: {one.path} chooses")  # fmt: skip
    return _listing(section, root, files, labelled) if labelled else None


def _labelled(section: Any, table: Path, root: Path, files: list[Path]) -> Labelled | None:
    """What ``table`` says of the pictures; None where no column of it names them."""
    place = f"data.table: {table}"
    try:
        with translate_errors(str(table)):
            columns = read_columns(table)
    except DataError as error:
        raise DataError(f"data.table: {error}") from error
    numbers = [n for n, file in enumerate(files) if file.suffix.lower() not in ENDINGS]
    paths = [files[n].relative_to(root).as_posix() for n in numbers]
    folder = table.parent.relative_to(root).as_posix() if table.parent.is_relative_to(root) else "."
    role = role_of_folders(f"{folder}/x") or _role(table)
    names = PictureNames(paths, folder="" if folder == "." else folder, role=role)
    column, front = _file_column(columns, names, root, section.image_column, place)
    if column is None:
        return None
    first = 1 if table.suffix.lower() in (".jsonl", ".ndjson", ".json") else 2
    if "." in column and names.find(clean(column).removeprefix(front)):  # no header: it is the row of a picture
        columns = {str(n): [name, *cells] for n, (name, cells) in enumerate(columns.items(), start=1)}
        column, first = next(key for key, cells in columns.items() if cells[0] == column), 1
    splits = next((name for name in columns if _is_split(name, columns[name], section.splits)), None)
    labels = _labels(columns, {column, splits}, section.label_column, place, first)
    found = Labelled(table)
    for row, (cell, label) in enumerate(zip(columns[column], labels, strict=True), start=first):
        name = clean(cell).removeprefix(front)
        meant = names.find(name)
        if label == "":
            found.unlabelled.append(row)
        elif len(meant) > 1:
            raise DataError(f"{place}: row {row}: {name!r} can be {some([paths[n] for n in meant], 2)}; data.path "
                            f"chooses the folder of the pictures, with data.table: {table}")  # fmt: skip
        elif not meant:
            found.lost.append((name, label, row))
        else:
            before, at = found.pictures.setdefault(numbers[meant[0]], (label, row))
            if before != label:
                raise DataError(f"{place}: {name} has the labels {before!r} in row {at} and {label!r} in row {row}, "
                                "wanted one label a picture")  # fmt: skip
            found.splits[numbers[meant[0]]] = str(columns[splits][row - first]) if splits else ""
    _check_single(found, place)
    return found


def _role(table: Path) -> str | None:
    """The split that the name of a table says it is for, as in ``trainLabels.csv``."""
    return min(roles_in(table.stem), default=None)


def _file_column(
    columns: dict[str, list[Any]], names: PictureNames, root: Path, chosen: str | None, place: str
) -> tuple[str | None, str]:
    """The column that names the most pictures, and what stands before all its names; None where none does."""
    if chosen is not None and chosen not in columns:
        raise DataError(f"data.image_column: {place}: no column {chosen!r}; found {some(list(columns))}")
    best, most, rows = None, 0, 0
    for column in columns if chosen is None else [chosen]:
        cells = [clean(cell) for cell in columns[column][:SAMPLE] if isinstance(cell, str | int) and cell != ""]
        for front in droppable(cells, root.name) if cells else ():
            found = {meant[0] for cell in cells if (meant := names.find(cell.removeprefix(front)))}
            if len(found) > most:
                best, most, rows = (column, front), len(found), len(cells)
            if found:
                break
    if best is None or 2 * most < min(rows, len(names)):
        return None, ""
    cells, usual = columns[best[0]][:SAMPLE], re.search(FILES, best[0].lower())
    if chosen is None and not usual and 2 * most < len(names) and all(str(cell).isdecimal() for cell in cells):
        return None, ""  # numbers of something else
    return best


def _is_split(name: str, cells: Sequence[Any], chosen: dict[str, str] | None) -> bool:
    """Whether a column says which split a row belongs to."""
    values = {str(cell).lower() for cell in cells}
    known = {value.lower() for value in (chosen or {}).values()}
    return name.lower() in SPLITS and all(role_named(value) or value in known for value in values)


def _labels(
    columns: dict[str, list[Any]], taken: set[str | None], chosen: str | None, place: str, first: int
) -> list[str]:
    """The label of every row as text, "" where it has none: a column, or the one column of several that holds a 1."""
    others = [name for name in columns if name not in taken]
    if chosen is not None:
        if chosen not in columns:
            raise DataError(f"data.label_column: {place}: no column {chosen!r}; found {some(list(columns))}")
        return _texts(columns[chosen], place, first)
    usual = [name for name in others if name.lower() in LABELS]
    if len(usual or others) == 1:
        return _texts(columns[(usual or others)[0]], place, first)
    if not usual and others and (hot := _one_hot({name: columns[name] for name in others})) is not None:
        return hot
    which = f"{some(usual or others)} can be the label" if others else "only names of pictures"
    raise DataError(f"{place}: {len(usual or others)} columns ({which}), wanted one; data.label_column chooses")


def _one_hot(columns: dict[str, list[Any]]) -> list[str] | None:
    """The name of the column that holds the 1 of each row, where every row holds one 1 and zeros."""
    names, rows = list(columns), list(zip(*columns.values(), strict=True))
    numbers = [[{"0": 0, "1": 1}.get(str(cell).removesuffix(".0"), 2) for cell in row] for row in rows]
    if any(sum(row) != 1 or max(row) != 1 for row in numbers):
        return None
    return [names[row.index(1)] for row in numbers]


def _texts(cells: list[Any], place: str, first: int) -> list[str]:
    """Labels as text; whole numbers as whole, also where a spreadsheet made 3.0 of them."""
    for row, cell in enumerate(cells, start=first):
        if isinstance(cell, list | dict):
            several = f"{len(cell)} labels" if isinstance(cell, list) else "an object"
            raise DataError(f"{place}: row {row} has {several} ({some([cell], 1)}), wanted one label a picture")
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    whole = [text.removesuffix(".0") for text in texts]
    return whole if all(text.lstrip("-").isdigit() or not text for text in whole) else texts


def _check_single(found: Labelled, place: str) -> None:
    """Raises a DataError for a label that is several, such as ``a|b`` where ``a`` and ``b`` are labels too."""
    known = {label for label, _ in found.pictures.values()}
    for mark in "|;, ":
        parts_of = {label: {part.strip() for part in label.split(mark)} for label in known if mark in label}
        times = Counter(part for parts in parts_of.values() for part in parts)
        labels = known | {part for part in times if times[part] > 1 and mark != " "}
        for label, row in found.pictures.values():
            if label in parts_of and parts_of[label] <= labels:
                raise DataError(f"{place}: row {row} has several labels ({label!r}), wanted one label a picture")


def _listing(section: Any, root: Path, files: list[Path], tables: list[Labelled]) -> Listing:
    """The labelled pictures of all tables."""
    where = f"data.path: {root}"
    lost = [(table, *row) for table in tables for row in table.lost]
    if lost and not section.skip_unreadable:
        rows = some([f"{name} in row {row}" for _, name, _, row in lost], 4)
        raise DataError(f"data.table: {lost[0][0].path}: {len(lost):,} rows name a picture that is not there: {rows}; "
                        "data.skip_unreadable: true leaves them out")  # fmt: skip
    owner = {number: table for table in tables for number in table.pictures}
    numbers = sorted(owner)
    items = [files[number] for number in numbers] + [root / name for _, name, _, _ in lost]
    labels = [owner[n].pictures[n][0] for n in numbers] + [label for _, _, label, _ in lost]
    origins = [item.relative_to(root).as_posix() for item in items]
    folders.check_names(origins, root)
    known = set(labels)
    names = sorted(known, key=int) if all(map(str.isdecimal, known)) else sorted(known)
    position = {name: index for index, name in enumerate(names)}
    said = [(owner[n].splits[n], _role(owner[n].path) or "") for n in numbers]
    said += [("", _role(table.path) or "") for table, _, _, _ in lost]
    splits, warnings = _splits(section, origins, said, where)
    return Listing(
        folder_names(names, where=where), items, np.array([position[label] for label in labels], np.int64), splits,
        origins, root, warnings=[*_left_out(root, files, tables), *warnings],
        hint="; wanted a column with a label for every class, which data.label_column chooses",
    )  # fmt: skip


def _left_out(root: Path, files: list[Path], tables: list[Labelled]) -> list[str]:
    """Warnings with the counts of rows without a label and pictures without a row."""
    names, warnings = some([table.path.name for table in tables], 3), []
    if unlabelled := [row for table in tables for row in table.unlabelled]:
        warnings.append(f"{names}: {len(unlabelled):,} rows have no label and are left out: row {some(unlabelled)}")
    owned = {number for table in tables for number in table.pictures}
    without = [file for n, file in enumerate(files) if n not in owned and folders.is_picture(file.name)]
    if without:
        listed = some([file.relative_to(root) for file in without], 3)
        warnings.append(f"{len(without):,} pictures have no row with a label in {names} and are left out: {listed}")
    return warnings


def _splits(
    section: Any, origins: list[str], said: list[tuple[str, str]], where: str
) -> tuple[list[str], list[str]]:  # fmt: skip
    """The role of every picture, and warnings: by a column, else its folder, else the name of its table."""
    chosen = set((section.splits or {}).values())
    found = []
    for origin, (column, table) in zip(origins, said, strict=True):
        folder = next((part for part in Path(origin).parts[:-1] if part in chosen), "") or role_of_folders(origin)
        name = column or folder or table
        found.append(name if name in chosen or not chosen else "")
    kinds = sorted(set(found))
    if len(kinds) <= 1 and not chosen:
        return ["all"] * len(found), []
    if "" in kinds:
        origin = origins[found.index("")]
        raise DataError(f"{where}: {origin} belongs to none of the splits {some(kinds[1:])}; wanted it in a folder of "
                        "one, or a column split in the table")  # fmt: skip
    role_of, warnings = roles(kinds, section.splits, where=where)
    return [role_of[name] for name in found], warnings
