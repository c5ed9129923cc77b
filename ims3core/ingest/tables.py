"""Labels in tables beside the pictures: metadata.csv or .jsonl, a competition's labels.csv, lists of paths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.data.spreadsheet import read_columns
from ims3core.errors import DataError, some
from ims3core.ingest import folders, labelled, split_columns
from ims3core.ingest.labelled import ENDINGS, Labelled
from ims3core.ingest.listing import Listing, folder_names, roles
from ims3core.ingest.split_columns import SplitError

MOST_TABLES = 20  # more files of these endings are one per picture
SHOWN = 60  # characters of a row in a message


@dataclass
class _Found:
    """The tables below a folder: the files there, what tables say, why others could not be used, and their names."""

    files: list[Path]
    tables: list[Labelled] = field(default_factory=list)
    doubts: list[DataError] = field(default_factory=list)
    unrelated: list[Path] = field(default_factory=list)
    many: list[Path] = field(default_factory=list)


def read(section: Any, root: Path, classes: Collection[str] | None = None) -> Listing:
    """The pictures below ``root`` with the labels of ``data.table``."""
    table = Path(section.table).expanduser()
    table = table if table.is_file() else root / table
    with translate_errors(f"data.path: {root}"):
        files = folders.files_below(root)
    if not table.is_file():
        there = some([str(file.relative_to(root)) for file in files if file.suffix.lower() in ENDINGS]) or "none"
        raise DataError(f"data.table: {section.table}: no such file; tables below {root}: {there}")
    found = labelled.read(section, table, root, files, classes=classes)
    if found is None:
        raise DataError(f"data.table: {table}: no column names pictures below {root} ({folders.content(root)})")
    return _listing(section, root, files, [found])


def is_candidate(file: Path) -> bool:
    """Whether a file may be a table of labels by its name: no parquet file of images, no answers of a competition."""
    if file.name.startswith(".") or "submission" in file.stem.lower():
        return False
    ending = file.suffix.lower()
    return ending in ENDINGS and file.is_file() and (ending != ".parquet" or _has_plain_columns(file))


def _has_plain_columns(file: Path) -> bool:
    """Whether a parquet file holds words and numbers only, so that its pictures are files."""
    import pyarrow.parquet
    import pyarrow.types

    try:
        kinds = pyarrow.parquet.read_schema(file).types
    except (OSError, pyarrow.ArrowException):
        return False
    return any(map(pyarrow.types.is_string, kinds)) and not any(
        pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
        for kind in kinds
    )


def find(
    section: Any, root: Path, classes: Collection[str] | None = None, apart: Collection[Path] = ()
) -> Listing | None:
    """The pictures below ``root`` with the labels of the tables that lie there; None where none names a picture.

    Args:
        classes: names, :func:`normal`, that ``data.classes`` gives.
        apart: folders whose pictures have labels without a table, so that they are not missed in it.

    Raises:
        DataError: tables name pictures, and what else they say is not clear.
    """
    found = _look(section, root, classes, apart=apart)
    if not found.tables:
        if found.doubts:
            raise found.doubts[0]
        return None
    owner: dict[int, Path] = {}
    for one in found.tables:
        for number in one.pictures:
            if (other := owner.setdefault(number, one.path)) != one.path:
                raise DataError(f"data.path: {root}: {other.name} and {one.path.name} both have a label of "
                                f"{found.files[number].name}; data.table: {one.path} chooses")  # fmt: skip
    listing = _listing(section, root, found.files, found.tables, apart)
    listing.warnings += [f"a table is not used: {error}" for error in found.doubts]
    return listing


def unused(
    section: Any, root: Path, classes: Collection[str] | None = None, apart: Collection[Path] = ()
) -> str:  # fmt: skip
    """Which tables lie below ``root`` and why none could be used, as the end of a message; "" where there are none."""
    found = _look(section, root, classes, apart=apart)
    if found.many:
        return (f"; {len(found.many):,} tables lie there ({some([table.name for table in found.many], 3)}), of which "
                "data.table names the one with the labels")  # fmt: skip
    if not found.unrelated or found.tables:
        return ""
    table = found.unrelated[0]
    more = f", nor do {some([other.name for other in found.unrelated[1:]], 3)}" if len(found.unrelated) > 1 else ""
    return f"; {table.name} names none of the pictures there ({_first_row(table)}){more}"


def _first_row(table: Path) -> str:
    """The first row of a table that can be read, with its columns."""
    cells = [f"{name}: {column[0]}" for name, column in read_columns(table).items() if column]
    return some([cell[:SHOWN] for cell in cells], 3) if cells else "no rows"


def _look(
    section: Any, root: Path, classes: Collection[str] | None, known: Mapping[str, str] | None = None,
    apart: Collection[Path] = (),
) -> _Found:  # fmt: skip
    """Reads every table below ``root`` that may have labels.

    Args:
        known: path below ``root`` -> class folder, for tables that say splits only.
        apart: folders of class folders; tables in these are of a class, and not looked at.

    Raises:
        SplitError: a table divides the pictures in a way that is not understood.
    """
    files = folders.files_below(root)
    beside = [file for file in files if is_candidate(file)]
    beside = [file for file in beside if not any(folder in file.parent.parents for folder in apart)]
    pictures = {file.with_suffix("") for file in files if folders.is_picture(file.name)}
    if sum(file.with_suffix("") in pictures for file in beside) > 2:  # one a picture, as annotations are
        beside = [file for file in beside if file.with_suffix("") not in pictures]
    found = _Found(files)
    if len(beside) > MOST_TABLES:
        found.many = beside
        return found
    numbers = None if known is None else {
        n: known[name] for n, file in enumerate(files) if (name := file.relative_to(root).as_posix()) in known
    }  # fmt: skip
    for table in beside:
        try:
            one = labelled.read(section, table, root, files, classes=classes, known=numbers)
        except SplitError:
            raise
        except DataError as error:
            found.doubts.append(error)
        else:
            found.unrelated += [table] if one is None else []
            found.tables += [one] if one is not None else []
    return found


def beside_folders(section: Any, root: Path, listing: Listing) -> None:
    """Divides pictures of class folders as tables directly in ``root`` do, and warns where they say something else.

    Raises:
        SplitError: a table divides the pictures in a way that is not understood.
    """
    beside = [file.name for file in sorted(root.iterdir()) if is_candidate(file)]
    if not beside:
        return
    known = {origin: listing.names[label] for origin, label in zip(listing.origins, listing.labels, strict=True)}
    undivided = set(listing.splits) == {"all"} and not section.splits
    try:
        found = _look(section, root, None, known)
    except (DataError, OSError) as error:  # a table that cannot be used is not missed, unless it has the test split
        if isinstance(error, SplitError) and undivided:
            raise
        return
    origins = {n: file.relative_to(root).as_posix() for n, file in enumerate(found.files)}
    said = {(known[origins[n]], label) for one in found.tables for n, (label, _) in one.pictures.items()
            if origins[n] in known}  # fmt: skip
    if not len(said) == len({folder for folder, _ in said}) == len({label for _, label in said}):
        listing.warnings.append(f"classes are the folders of {root}; {some(beside, 2)} has other labels for them, "
                                "which data.table reads")  # fmt: skip
    elif undivided:
        _divide(listing, found, origins, root)


def _divide(listing: Listing, found: _Found, origins: Mapping[int, str], root: Path) -> None:
    """Gives the pictures of class folders the splits that tables say, where these say them of all pictures."""
    split_of = {origins[n]: one.splits[n] or split_columns.role_of_table(one.path) for one in found.tables
                for n in one.pictures}  # fmt: skip
    split_of = {origin: split for origin, split in split_of.items() if split}
    tables = some([one.path.name for one in found.tables], 3)
    pictures = [origin for origin in listing.origins if folders.is_picture(origin)]
    without = [origin for origin in pictures if origin not in split_of]
    kinds = set(split_of.values())
    if not kinds - {"train"} or not set(pictures) & split_of.keys():
        return
    if without and "train" in kinds:
        listing.warnings.append(f"{tables} divide {len(pictures) - len(without):,} of the {len(pictures):,} pictures "
                                f"in {root} into splits, not {some(without, 2)}; this is not used, and the test split "
                                "is drawn from all; wanted a row for each")  # fmt: skip
        return
    role_of, warnings = roles(sorted(kinds | {"train"}), None, where=str(root))
    listing.splits = [role_of[split_of.get(origin, "train")] for origin in listing.origins]
    rest = f"; {len(without):,} pictures without a row are trained on" if without else ""
    listing.warnings += [
        f"pictures of the class folders are divided as {tables} says{rest}",
        *warnings,
    ]


def _listing(
    section: Any, root: Path, files: list[Path], tables: list[Labelled], apart: Collection[Path] = ()
) -> Listing:
    """The labelled pictures of all tables."""
    lost = [(table, row) for table in tables for row in table.lost]
    if lost and not section.skip_unreadable:
        rows = some([f"{row.name} in row {row.row}" for _, row in lost], 4)
        raise DataError(f"data.table: {lost[0][0].path}: {len(lost):,} rows name a picture that is not there: {rows}; "
                        "data.skip_unreadable: true leaves them out")  # fmt: skip
    owner = {number: table for table in tables for number in table.pictures}
    items = [files[number] for number in sorted(owner)] + [root / row.name for _, row in lost]
    labels = [owner[n].pictures[n][0] for n in sorted(owner)] + [row.label for _, row in lost]
    said = [(owner[n].splits[n], owner[n].path) for n in sorted(owner)] + [
        (row.split, table.path) for table, row in lost
    ]
    origins = [item.relative_to(root).as_posix() for item in items]
    folders.check_names(origins, root)
    if any(folder in files[number].parents for number in owner for folder in apart):
        apart = ()
    splits, warnings = list[str | None](["all"] * len(items)), list[str]()
    if not apart:  # else their folder is a split
        splits, warnings = split_columns.divide(section.splits, origins, said, f"data.path: {root}")
    kept = [n for n, split in enumerate(splits) if split is not None]
    known = {labels[n] for n in kept}
    names = sorted(known, key=int) if all(map(str.isdecimal, known)) else sorted(known)
    position = {name: index for index, name in enumerate(names)}
    return Listing(
        folder_names(names, where=f"data.path: {root}"), [items[n] for n in kept],
        np.array([position[labels[n]] for n in kept], np.int64), [split for split in splits if split is not None],
        [origins[n] for n in kept], root, warnings=[*_left_out(root, files, tables, apart), *warnings],
        hint="; wanted a column with a label for every class, which data.label_column chooses",
    )  # fmt: skip


def _left_out(root: Path, files: list[Path], tables: list[Labelled], apart: Collection[Path]) -> list[str]:
    """What tables note, and the counts of rows without a label or in other splits, and of pictures without a row."""
    names, warnings = some([table.path.name for table in tables], 3), [note for one in tables for note in one.notes]
    if unlabelled := [row for table in tables for row in table.unlabelled]:
        warnings.append(f"{names}: {len(unlabelled):,} rows have no label and are left out: row {some(unlabelled)}")
    for table in tables:
        if table.others:
            listed = some([f"{text} ({count:,} rows)" for text, count in sorted(table.others.items())])
            warnings.append(f"{table.path.name}: splits that data.splits does not name are left out: {listed}")
    owned = {number for table in tables for number in table.pictures}
    owned |= {number for table in tables for number in table.passed}
    without = [file for n, file in enumerate(files) if n not in owned and folders.is_picture(file.name)
               and not any(folder in file.parents for folder in apart)]  # fmt: skip
    if without:
        listed = some([file.relative_to(root) for file in without], 3)
        warnings.append(f"{len(without):,} pictures have no row with a label in {names} and are left out: {listed}")
    return warnings
