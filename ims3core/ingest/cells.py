"""What people put into the columns of a table: images and labels in Arrow's columns, or one line about them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError
from ims3core.ingest.classes import normal
from ims3core.ingest.folders import is_picture
from ims3core.ingest.listing import pixel_array, whole_labels

LOOKED_AT = 20  # cells of text, to tell paths from base64


class Images(Sequence):
    """The images of a column, read on demand as ``ims3core.data.decode`` takes them; None where a row has none."""

    def __init__(self, column: pa.ChunkedArray, stored: Callable[[Any, int], Any], where: str) -> None:
        self._column, self._stored, self._where = column, stored, where

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        with translate_errors(f"{self._where}, row {row}"):
            cell = self._column[row].as_py()
        return None if cell is None else self._stored(cell, row)


def images(column: pa.ChunkedArray, folder: Path | None, *, where: str) -> Images:
    """The images of a column of bytes, of ``{bytes, path}``, of base64, of paths from ``folder``, or of pixels.

    A list of one image is that image.

    Raises:
        DataError: naming what else the column holds.
    """
    column = _plain(column)
    if _is_list(column.type) and not _is_list(column.type.value_type) and not _is_number(column.type.value_type):
        column = _only(column, f"{where}: images", "image")
    kind = column.type
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return Images(column, lambda cell, row: _opened(cell, folder), where)
    if _is_bytes(kind):
        return Images(column, lambda cell, row: cell, where)
    if _is_text(kind):
        return Images(column, _text_reader(column, folder, where), where)
    if _is_list(kind):
        found = Images(column, partial(_pixels, kind=_innermost(kind), where=where), where)
        _ = next((found[row] for row in range(len(column)) if column[row].is_valid), None)
        return found
    raise DataError(f"{where}: holds {str(kind)[:60]}, wanted images: bytes, base64, paths of files, or pixels")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without the name that an extension gives its type."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        of(kind)
        for of in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _innermost(kind: pa.DataType) -> pa.DataType:
    return _innermost(kind.value_type) if _is_list(kind) else kind


def _only(column: pa.ChunkedArray, where: str, content: str) -> pa.ChunkedArray:
    """The first element of every list, which must be the only one."""
    counts = pc.list_value_length(column).to_numpy()
    wrong = np.flatnonzero((counts != 1) & ~np.isnan(counts.astype(np.float64)))
    if len(wrong):
        raise DataError(
            f"{where} are lists, with {int(counts[wrong[0]])} in row {wrong[0]}, wanted one {content} per row; "
            f"{len(wrong)} of {len(column)} rows hold none or several"
        )
    return pc.list_element(column, 0)


def _opened(cell: dict[str, Any], folder: Path | None) -> Any:
    """The bytes of a cell, or the file it names; None where there is neither."""
    if (content := cell.get("bytes")) is not None:
        return _from_base64(content) if isinstance(content, str) else content
    return None if cell.get("path") is None else _file(cell["path"], folder)


def _file(text: str, folder: Path | None) -> Path:
    """A file as a table names it: from ``folder`` or, if it is not there, from where we are."""
    inside = Path(text) if folder is None else folder / text
    return inside if _is_file(inside) else Path(text)


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):  # a name too long for a file
        return path.is_file()
    return False


def _text_reader(column: pa.ChunkedArray, folder: Path | None, where: str) -> Callable[[Any, int], Any]:
    """How the texts of a column become images: they are paths, or base64."""
    with translate_errors(where):  # not UTF-8
        texts = column.drop_null()[:LOOKED_AT].to_pylist()
    if any(_is_file(_file(text, folder)) for text in texts):
        return lambda cell, row: _file(cell, folder)
    if texts and _is_picture(_from_base64(texts[0])):
        return lambda cell, row: _from_base64(cell) or cell.encode()
    wanted = f"wanted images: bytes, base64, or paths of files below {folder or 'this folder'}"
    shown = repr(texts[0][:60]) if texts else "null"
    if texts and texts[0].startswith(("http://", "https://")):
        raise DataError(f"{where}: holds web addresses ({shown}), which are not fetched; {wanted}")
    if texts and is_picture(Path(texts[0]).name):
        raise DataError(f"{where}: holds paths of files that are not there ({shown}); {wanted}")
    raise DataError(f"{where}: holds text ({shown}), {wanted}")


def _from_base64(text: str) -> bytes:
    """What base64 stands for, also as a data address; nothing if it is none."""
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode("".join((rest if comma and head.startswith("data:") else text).split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_picture(content: bytes) -> bool:
    from PIL import Image

    with contextlib.suppress(Exception):  # whatever Pillow raises on what is not an image
        Image.open(io.BytesIO(content))
        return True
    return False


def _pixels(cell: list[Any], row: int, *, kind: pa.DataType, where: str) -> np.ndarray:
    """Nested lists of numbers as pixels (H, W) or (H, W, C)."""
    where = f"{where}, row {row}"
    with translate_errors(f"{where}: lists of unequal lengths, wanted height x width or height x width x channels"):
        array = np.asarray(cell, dtype=kind.to_pandas_dtype())
    if array.dtype.kind in "iu" and array.dtype != np.uint16 and array.size:
        if array.min() < 0 or array.max() > 255:
            raise DataError(f"{where}: pixels from {array.min()} to {array.max()}, wanted 0 to 255")
        array = array.astype(np.uint8)
    return np.asarray(pixel_array(array[None], where=where)[0])


@dataclass(frozen=True)
class Labels:
    """The labels of one part of a table.

    Attributes:
        numbers: int64 (N,), one per image.
        names: what the numbers stand for; None where the labels are numbers themselves.
        ordered: the names are a class table, in an order of its own, and not just what the cells say.
        where: what to call the column in a message.
    """

    numbers: np.ndarray
    names: list[str] | None
    ordered: bool
    where: str


def labels(column: pa.ChunkedArray, kind: Any, *, where: str) -> Labels:
    """The labels of a column whose type in ``datasets`` is ``kind``: classes, words, whole numbers, or lists of one.

    Raises:
        DataError: a row has no label or several, or it cannot be a class.
    """
    if _is_list(column.type):
        column, kind = _only(column, f"{where}: labels", "label"), getattr(kind, "feature", kind)
    if _is_bytes(column.type):
        with translate_errors(f"{where}: labels are bytes, wanted text"):
            column = column.cast(pa.string())
    with translate_errors(where):  # not UTF-8
        values = column.to_pylist()
    if getattr(kind, "names", None):
        table = [str(name).strip() for name in kind.names]
        return Labels(whole_labels(values, classes=len(table), where=where), table, True, where)
    if values and all(isinstance(value, str) for value in values):
        words = [value.strip() for value in values]
        names = sorted(set(words))
        position = {name: n for n, name in enumerate(names)}
        return Labels(np.array([position[word] for word in words], np.int64), names, False, where)
    return Labels(whole_labels(values, classes=None, where=where), None, False, where)


def _numbered(numbers: np.ndarray) -> tuple[list[str], np.ndarray, list[str]]:
    """The numbers that occur, rising, as names; every image's place among them; a warning if some are left out."""
    found, places = np.unique(numbers, return_inverse=True)
    span = int(found[-1] - found[0]) + 1 if len(found) else 0
    gaps = [f"labels are numbers from {found[0]} to {found[-1]}, of which {len(found):,} occur: these are the classes"]
    return [str(number) for number in found.tolist()], places.astype(np.int64), gaps if span != len(found) else []


def unified(parts: Sequence[Labels]) -> tuple[list[str], np.ndarray, list[str]]:
    """Class names, the labels of all parts as their numbers, and warnings: a class is known by its name.

    The first class table gives the order, else the alphabet; labels that are numbers are numbered as they rise.

    Raises:
        DataError: some parts have words for labels, others numbers that are none of them.
    """
    if all(part.names is None for part in parts):
        return _numbered(np.concatenate([part.numbers for part in parts]))
    position: dict[str, int] = {}
    names: list[str] = []
    tables = [part for part in parts if part.names is not None]
    words = sorted({name for part in tables if not part.ordered for name in part.names or ()})
    for name in [*(name for part in tables if part.ordered for name in part.names or ()), *words]:
        if normal(name) not in position:
            position[normal(name)] = len(names)
            names.append(name)
    numbers = []
    for part in parts:
        own = part.names
        if own is None:
            own = [str(n) for n in range(int(part.numbers.max(initial=-1)) + 1)]
            if strange := [n for n in np.unique(part.numbers).tolist() if str(n) not in position]:
                raise DataError(
                    f"{part.where}: labels are numbers ({strange[0]}), those of {tables[0].where} are names "
                    f"({names[0]!r}); wanted names in both, or numbers"
                )
        numbers.append(np.array([position.get(normal(name), -1) for name in own], np.int64)[part.numbers])
    return names, np.concatenate(numbers), _differences([part for part in tables if part.ordered])


def _differences(tables: list[Labels]) -> list[str]:
    """One warning if class tables differ."""
    for table in tables[1:]:
        first, other = tables[0].names or [], table.names or []
        if first != other:
            n = next((n for n, pair in enumerate(zip(first, other, strict=False)) if pair[0] != pair[1]), None)
            how = f"{len(first)} and {len(other)} names" if n is None else f"{n} is {first[n]!r} and {other[n]!r}"
            return [f"two class tables differ ({how}), classes are matched by name: {tables[0].where}; {table.where}"]
    return []
