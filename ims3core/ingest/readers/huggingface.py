"""A data set of the hub, or a folder of parquet files, read by ``datasets``."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.hub import cache_if_unreachable
from ims3core.base.library_errors import reason, translate_errors
from ims3core.errors import DataError, some
from ims3core.ingest.folders import content
from ims3core.ingest.listing import Listing, folder_names, roles, whole_labels

LABELS = ("label", "labels", "class", "target")  # columns that are taken for the label where nothing is typed as one


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """All splits, undecoded; ``data.image_column``, ``data.label_column`` and ``data.splits`` choose."""
    import datasets

    datasets.disable_progress_bars()
    place = f"data.name: {section.name}" if section.name else f"data.path: {Path(section.path).expanduser()}"
    loaded = _load(section, place)
    role_of, warnings = {"train": "all"}, list[str]()
    if set(loaded) != {"train"} or section.splits:
        role_of, warnings = roles(list(loaded), section.splits, where=place)
    images, labels, splits, origins, tables = [], [], [], [], []
    for split, role in role_of.items():
        part = loaded[split]
        column = _image_column(part, section.image_column, place)
        label = _label_column(part, section.label_column, place)
        images.append(_Bytes(_undecoded(part, column), column))
        labels.append((part[label], f"{place}, split {split}, column {label}"))
        tables.append(_class_names(part, label))
        splits += [role] * len(part)
        origins += [f"{split if role != 'all' else 'all'}[{row}]" for row in range(len(part))]
    names, numbers = _numbered_labels(tables, labels)
    return Listing(folder_names(names, where=place), _Chain(images), numbers, splits, origins, warnings=warnings)


def _load(section: Any, place: str) -> Any:
    """The splits of the data set as ``datasets`` opens them."""
    import datasets

    folder = None if section.path is None else Path(section.path).expanduser()
    if folder is not None:
        if not folder.exists():
            raise DataError(f"{place}: no such folder")
        _check_files(folder, place)
    reachable = contextlib.nullcontext() if section.name is None else cache_if_unreachable()
    try:
        with reachable:
            return datasets.load_dataset(section.name or str(folder), name=section.config, revision=section.revision)
    except Exception as error:
        text = reason(error)
        if "Config name is missing" in text or "onfigurations" in text or "BuilderConfig" in text:
            text = text.split("Example of usage")[0].split("Please pick one among the")[-1].strip()
            raise DataError(f"{place}: holds several configurations ({text}); data.config chooses one") from error
        names = [] if folder is None else sorted(file.name for file in folder.rglob("*.parquet"))
        _check_rows(folder, place)
        listed = f" of {some(names, 4)}" if names else "" if folder is None else f"; it holds {content(folder)}"
        raise DataError(f"{place}: not a readable data set{listed} ({text})") from error


def _check_files(folder: Path, place: str) -> None:
    """Raises a DataError for the first parquet file that is none, which ``datasets`` does not name."""
    import pyarrow.parquet

    parquet = sorted(folder.rglob("*.parquet")) if folder.is_dir() else [folder]
    if not parquet and not any(folder.iterdir()):
        raise DataError(f"{place}: an empty folder, nothing to read")
    for file in parquet:
        kind = disguised_as(file) or format_of(file, pictures=True)
        if kind is not None and kind != "a parquet file":
            raise DataError(f"{place}: {file.name}: {kind}, wanted a parquet file")
        with translate_errors(f"{place}: {file.name}: not a complete parquet file"):
            pyarrow.parquet.read_metadata(file)


def _check_rows(folder: Path | None, place: str) -> None:
    """Raises a DataError for the first parquet file whose rows cannot be read."""
    import pyarrow.parquet

    for file in sorted(folder.rglob("*.parquet")) if folder is not None else ():
        with translate_errors(f"{place}: {file.name}: damaged"):
            for _ in pyarrow.parquet.ParquetFile(file).iter_batches():
                pass


def _image_column(part: Any, chosen: str | None, place: str) -> str:
    """The name of the column of images: typed as such, or of bytes."""
    import datasets

    features = part.features
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    loose = [name for name, kind in features.items() if _holds_bytes(kind)]
    return _one_column(typed or loose, chosen, features, "image", place)


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return "bytes" in kind
    return getattr(kind, "dtype", "") in ("binary", "large_binary")


def _label_column(part: Any, chosen: str | None, place: str) -> str:
    """The name of the column of labels: typed as classes, or with a usual name."""
    import datasets

    features = part.features
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    loose = [name for name in features if name.lower() in LABELS]
    return _one_column(typed or loose, chosen, features, "label", place)


def _one_column(columns: list[str], chosen: str | None, features: Any, content: str, place: str) -> str:
    """The ``chosen`` column, or the only one of ``columns``."""
    if chosen is not None:
        if chosen not in features:
            raise DataError(f"data.{content}_column: {place}: no column {chosen!r}; found {', '.join(features)}")
        return chosen
    if len(columns) != 1:
        which = " and ".join(columns) if columns else f"none among {', '.join(features)}"
        raise DataError(
            f"{place}: {len(columns)} {content} columns ({which}), wanted one; data.{content}_column chooses"
        )
    return columns[0]


def _undecoded(part: Any, column: str) -> Any:
    import datasets

    images = part.select_columns([column])
    if isinstance(part.features[column], datasets.Image):
        return images.cast_column(column, datasets.Image(decode=False))
    return images


def _class_names(part: Any, label: str) -> list[str] | None:
    """The class names of a typed column; None where they are the values."""
    kind = part.features[label]
    return list(kind.names) if hasattr(kind, "names") else None


def _numbered_labels(tables: list[list[str] | None], labels: list[tuple[Any, str]]) -> tuple[list[str], np.ndarray]:
    """Class names, and the labels of all splits one after the other as their numbers.

    Args:
        tables: per split, the class names of its column of labels, or None.
        labels: per split, its column of labels and what to call it in a message.
    """
    if tables[0] is not None:
        if any(table != tables[0] for table in tables):
            raise DataError(f"{labels[0][1]}: splits have different class tables")
        count = len(tables[0])
        return tables[0], np.concatenate([whole_labels(column, classes=count, where=where) for column, where in labels])
    values = [value for column, _ in labels for value in column]
    if all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        position = {name: n for n, name in enumerate(names)}
        return names, np.array([position[value] for value in values], np.int64)
    numbers = np.concatenate([whole_labels(column, classes=None, where=where) for column, where in labels])
    return [str(n) for n in range(int(numbers.max()) + 1)], numbers


class _Bytes(Sequence):
    """Encoded images of one column of a ``datasets`` table, read on demand; None where a row has none."""

    def __init__(self, table: Any, column: str) -> None:
        self._table, self._column = table, column

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: Any) -> Any:
        cell = self._table[row][self._column]
        if cell is None or isinstance(cell, bytes):
            return cell
        if cell.get("bytes") is not None:
            return cell["bytes"]
        return None if cell.get("path") is None else Path(cell["path"])


class _Chain(Sequence):
    """Sequences one after the other, read on demand."""

    def __init__(self, parts: Sequence[Sequence]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        part = int(np.searchsorted(self._ends, key, side="right"))
        return self._parts[part][key - (int(self._ends[part - 1]) if part else 0)]
