"""Which column of a table names the pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ims3core.errors import DataError, some
from ims3core.ingest.folders import is_picture
from ims3core.ingest.label_columns import LABELS, NUMBERS
from ims3core.ingest.picture_names import PictureNames, clean, droppable

FILES = r"(^|[^a-z])(id|ids|image|img|file|path|name|picture|photo)"  # names of columns of file names
SAMPLE = 2000  # rows that show which column names the pictures


@dataclass(frozen=True)
class FileColumn:
    """A column that names pictures.

    Attributes:
        name: of the column.
        front: what stands before all names, because the table was made elsewhere.
        rank: endings or folders, names as they are (not as numbers), a usual name of the column; the first counts most.
        count: pictures that the first rows name.
        meant: the files that each of the first rows can mean.
    """

    name: str
    front: str
    rank: tuple[bool, bool, bool]
    count: int
    meant: list[tuple[int, ...]]


def find(
    columns: Mapping[str, list[Any]], names: PictureNames, root: str, chosen: tuple[str | None, str | None], place: str
) -> FileColumn | None:
    """The column that names the pictures; None where none does.

    A column of paths comes before one of numbers, which may just count the rows, also if that finds more.

    Args:
        root: name of the folder of the data.
        chosen: ``data.image_column`` and ``data.label_column``.

    Raises:
        DataError: two columns of one kind name different pictures.
    """
    image, label = chosen
    if image is not None and image not in columns:
        raise DataError(f"data.image_column: {place}: no column {image!r}; found {some(list(columns))}")
    wanted = (
        [image] if image is not None else [n for n in columns if n != label and n.lower() not in (*LABELS, *NUMBERS)]
    )
    found = [one for name in wanted if (one := _looked_at(name, columns[name][:SAMPLE], names, root, image is None))]
    if not found:
        return None
    best = max(found, key=lambda one: (one.rank, one.count))
    for other in found:
        if other is best or other.rank != best.rank or (best.rank[0] and other.count != best.count):
            continue
        for row, (mine, theirs) in enumerate(zip(best.meant, other.meant, strict=True), start=1):
            if mine and theirs and mine != theirs:
                raise DataError(f"{place}: the columns {best.name!r} and {other.name!r} both name pictures, and not "
                                f"the same ones (the first time {row} rows below the header); data.image_column "
                                "chooses")  # fmt: skip
    return best


def _looked_at(name: str, cells: list[Any], names: PictureNames, root: str, guessed: bool) -> FileColumn | None:
    """What a column is as one of file names; None if it names too few pictures for that."""
    texts = [clean(cell) if isinstance(cell, str | int) and cell != "" else "" for cell in cells]
    written = [text for text in texts if text]
    for front in droppable(written, root) if written else ():
        meant = [tuple(names.find(text.removeprefix(front))) if text else () for text in texts]
        if not (found := {numbers[0] for numbers in meant if numbers}):
            continue
        usual = re.search(FILES, name.lower()) is not None
        if 2 * len(found) < min(len(written), len(names)):
            return None
        if guessed and not usual and 2 * len(found) < len(names) and all(text.isdecimal() for text in written):
            return None  # numbers of something else
        paths = sum("/" in text or is_picture(text) for text in written)
        exact = sum(bool(numbers) and not names.by_number(text) for text, numbers in zip(texts, meant, strict=True))
        return FileColumn(name, front, (2 * paths >= len(written), 2 * exact >= len(found), usual), len(found), meant)
    return None


def is_row(column: FileColumn, cells: list[Any], names: PictureNames) -> bool:
    """Whether the name of the column is no header but the row of a picture."""
    meant = names.find(clean(column.name).removeprefix(column.front))
    if not meant or "." in column.name:
        return bool(meant)
    plain = re.search(FILES, column.name.lower()) and not re.search(r"\d", column.name)
    return not plain and not column.rank[0] and tuple(meant) not in column.meant
