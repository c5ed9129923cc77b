"""A data set of the hub, or a folder of parquet files, read by ``datasets``."""

from __future__ import annotations

import contextlib
import glob
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.hub import cache_if_unreachable
from ims3core.base.library_errors import reason, translate_errors
from ims3core.errors import DataError, some
from ims3core.ingest import cells, parquet_splits
from ims3core.ingest.folders import content
from ims3core.ingest.listing import ROLES, Listing, folder_names, roles

LABELS = ("label", "labels", "class", "target")  # columns that are taken for the label where nothing is typed as one
SAVED = ("state.json", "dataset_dict.json")  # files of ``save_to_disk``


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """All splits, undecoded; ``data.image_column``, ``data.label_column`` and ``data.splits`` choose.

    A test split without labels, as competitions and ImageNet have it, is left out.
    """
    import datasets

    datasets.disable_progress_bars()
    place = f"data.name: {section.name}" if section.name else f"data.path: {Path(section.path).expanduser()}"
    folder = None if section.path is None else Path(section.path).expanduser()
    loaded, warnings = _load(section, folder, place), list[str]()
    for split in [split for split in loaded if ROLES.get(split) == "test" and len(loaded) > 1 and not section.splits]:
        if all(_unlabelled(part, section.label_column) for part in loaded[split]):
            lacking = "labels" if any(map(len, loaded[split])) else "rows"
            warnings.append(f"{place}: split {split} has no {lacking} and is left out")
            del loaded[split]
    role_of = {"train": "all"}
    divided = parquet_splits.by_column(loaded, section.splits, place)
    if divided is not None:
        (column, said), role_of = divided, dict.fromkeys(loaded, "all")
        role_of_row, more = roles(list(dict.fromkeys(said)), section.splits, where=f"{place}, column {column}")
        warnings += more
    elif set(loaded) != {"train"} or section.splits:
        role_of, more = roles(list(loaded), section.splits, where=place)
        warnings += more
    images, labels, splits, origins = list[Sequence](), list[cells.Labels](), list[str](), list[str]()
    for split, role in role_of.items():
        rows = itertools.count()
        if not any(map(len, loaded[split])):
            raise DataError(f"{place}: split {split} has no rows, wanted images and labels")
        for part in loaded[split]:
            column = _one_column(_image_columns(part.features), section.image_column, part.features, "image", place)
            label = _one_column(_label_columns(part.features), section.label_column, part.features, "label", place)
            where = f"{place}, split {split}, column"
            _check_words(part.data.column(label), f"{where} {label}")
            images.append(cells.images(part.data.column(column), _base(folder), where=f"{where} {column}"))
            labels.append(cells.labels(part.data.column(label), part.features[label], where=f"{where} {label}"))
            splits += [role] * len(part)
            origins += [f"{split if role != 'all' else 'all'}[{next(rows)}]" for _ in range(len(part))]
    names, numbers, differences = cells.unified(labels)
    folders = folder_names(names, where=place)
    if divided is not None:
        splits = [role_of_row.get(name, "") for name in said]
    listing = Listing(folders, _Chain(images), numbers, splits, origins, warnings=warnings + differences)
    return listing if all(splits) else listing.rows(np.flatnonzero(np.array(splits) != ""))


def _check_words(column: Any, where: str) -> None:
    """Raises a DataError where the text of a label is empty."""
    if not str(column.type).endswith("string"):
        return
    with translate_errors(where):  # not UTF-8
        values = column.to_pylist()
    empty = [row for row, value in enumerate(values) if value is not None and not value.strip()]
    if empty:
        raise DataError(
            f"{where}: {len(empty)} rows have no label (an empty text), the first is row {empty[0]}; a split without "
            "labels cannot be used"
        )


def _base(folder: Path | None) -> Path | None:
    return folder.parent if folder is not None and folder.is_file() else folder


def _load(section: Any, folder: Path | None, place: str) -> dict[str, list[Any]]:
    """The splits of the data set, each as the parts whose files say the same of their columns."""
    import datasets

    if folder is not None:
        if not folder.exists():
            raise DataError(f"{place}: no such folder")
        _check_files(folder, place)
    reachable = contextlib.nullcontext() if section.name is None else cache_if_unreachable()
    given = {"path": section.name or str(folder), "name": section.config, "revision": section.revision}
    try:
        with reachable:
            if folder is not None and folder.is_file():
                return {"train": _parts([str(folder)], None)}
            if folder is not None and any((folder / file).is_file() for file in SAVED):
                saved = datasets.load_from_disk(str(folder))
                return (
                    {split: [part] for split, part in saved.items()} if isinstance(saved, dict) else {"train": [saved]}
                )
            builder = datasets.load_dataset_builder(**given)
            files = {str(split): list(map(str, found)) for split, found in (builder.config.data_files or {}).items()}
            if all(file.endswith(".parquet") for found in files.values() for file in found):
                if files and folder is not None:
                    files = _files_of_splits(folder, files, section.splits, place)
                    return {split: _parts(found, builder.info.features) for split, found in files.items()}
                _check_same_tables(files, place)
            return {split: [part] for split, part in datasets.load_dataset(**given).items()}
    except DataError:
        raise
    except Exception as error:
        text = reason(error)
        if "Config name is missing" in text or "onfigurations" in text or "BuilderConfig" in text:
            text = text.split("Example of usage")[0].split("Please pick one among the")[-1].strip()
            raise DataError(f"{place}: holds several configurations ({text}); data.config chooses one") from error
        if folder is not None and set("*?[]") & set(str(folder)):
            raise DataError(f"{place}: `datasets` takes * ? [ ] in a path for a pattern; rename the folder") from error
        names = [] if folder is None else sorted(file.name for file in folder.rglob("*.parquet"))
        _check_rows(folder, place)
        listed = f" of {some(names, 4)}" if names else "" if folder is None else f"; it holds {content(folder)}"
        raise DataError(f"{place}: not a readable data set{listed} ({text})") from error


def _files_of_splits(
    folder: Path, files: dict[str, list[str]], chosen: dict[str, str] | None, place: str
) -> dict[str, list[str]]:  # fmt: skip
    """The files of every split: as the data set's card says, else by their names, all of which must be there."""
    card = folder / "README.md"
    if card.is_file() and "data_files" in card.read_text(encoding="utf-8", errors="replace"):
        parquet_splits.check_complete([Path(file) for found in files.values() for file in found], place)
        return files
    found = parquet_splits.parquet_files(folder)
    parquet_splits.check_complete(found, place)
    return parquet_splits.by_name(folder, found, chosen, place)


def _parts(files: list[str], described: Any) -> list[Any]:
    """The rows of some parquet files, in one data set for each run of files that say the same of their columns.

    ``datasets`` gives all files the class names of the first one, whatever they say themselves.

    Args:
        described: what the data set's card says of the columns, for files that say nothing; or None.
    """
    import datasets
    import pyarrow.parquet

    parts = []
    files = [
        file for file in files if pyarrow.parquet.read_metadata(file).num_rows
    ]  # `datasets` fails on those of none
    for kinds, run in itertools.groupby(files, key=_columns):
        names = [glob.escape(file) for file in run]
        features = None if kinds[1] else described
        parts.append(datasets.load_dataset("parquet", data_files=names, split="train", features=features))
    return parts


def _columns(file: str) -> tuple[Any, bool]:
    """What a parquet file says of its columns, and whether in the words of ``datasets``."""
    import datasets
    import fsspec
    import pyarrow.parquet

    with fsspec.open(file, "rb") as stream:
        schema = pyarrow.parquet.read_schema(stream)
    return datasets.Features.from_arrow_schema(schema), b"huggingface" in (schema.metadata or {})


def _check_same_tables(files: dict[str, list[str]], place: str) -> None:
    """Raises a DataError if splits of a hub data set number their classes differently: the first's would be all's."""
    first: dict[str, tuple[str, list[str]]] = {}
    for split, found in files.items():
        for column, kind in _columns(found[0])[0].items() if found else ():
            names = getattr(kind, "names", None)
            other, before = first.setdefault(column, (split, names)) if names else ("", None)
            if before != names:
                raise DataError(
                    f"{place}: splits {other} and {split} have different class tables in column {column}; download the "
                    "files and name their folder in data.path, where classes are matched by name"
                )


def _unlabelled(part: Any, chosen: str | None) -> bool:
    """Whether no row has a label: there is no such column, or all of it is null or -1."""
    found = _label_columns(part.features) if chosen is None else [name for name in part.features if name == chosen]
    return not found or all(value in (None, -1, "") for name in found for value in part.data.column(name).to_pylist())


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


def _image_columns(features: Any) -> list[str]:
    """The columns that can be the image: typed as images or, where there are none, of bytes."""
    import datasets

    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    return typed or [name for name, kind in features.items() if _holds_bytes(kind)]


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return "bytes" in kind
    return "binary" in getattr(kind, "dtype", "")


def _label_columns(features: Any) -> list[str]:
    """The columns that can be the label: typed as classes or, where there are none, with a usual name."""
    import datasets

    typed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return typed or [name for name in features if name.strip().lower() in LABELS]


def _one_column(columns: list[str], chosen: str | None, features: Any, content: str, place: str) -> str:
    """The ``chosen`` column, or the only one of ``columns``."""
    if chosen is not None:
        if chosen not in features:
            raise DataError(f"data.{content}_column: {place}: no column {chosen!r}; found {some(list(features))}")
        return chosen
    if len(columns) != 1:
        which = some(columns, 3) if columns else f"none among {some(list(features))}"
        raise DataError(
            f"{place}: {len(columns)} {content} columns ({which}), wanted one; data.{content}_column chooses"
        )
    return columns[0]


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
