"""ILSVRC's CLS-LOC folder as downloaded: train/<wnid>, all of val in one folder with a CSV of labels, test without."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.data.spreadsheet import read_table
from ims3core.errors import DataError, some
from ims3core.ingest.classes import is_wnid
from ims3core.ingest.listing import Listing

LABELS = "LOC_val_solution.csv"  # ImageId, PredictionString: the class's WordNet id, then the corners of boxes
INSIDE = Path("ILSVRC/Data/CLS-LOC")  # where the pictures are in the archive; the labels lie at its top


def read(path: Path, classes: Collection[str] | None = None) -> Listing | None:
    """The training images and, as the test split, the validation images; None if ``path`` is something else.

    Args:
        path: the folder CLS-LOC, or the top of the unpacked archive.
        classes: WordNet ids to look into; None: all.

    Raises:
        DataError: a validation image has no label.
    """
    folder = path / INSIDE if (path / INSIDE).is_dir() else path
    with translate_errors(f"data.path: {folder}"):
        wnids = _names(folder / "train") if (folder / "train").is_dir() else []
        flat = [
            split for split in ("val", "test") if (files := _names(folder / split)) and not any(map(is_wnid, files))
        ]
        if not wnids or not all(map(is_wnid, wnids)) or not flat or not (folder / "val").is_dir():
            return None
        table = next((place / LABELS for place in (folder, *folder.parents[:3]) if (place / LABELS).is_file()), None)
        if "val" in flat and table is None:
            return None
        items, names, warnings = list[Path](), list[str](), list[str]()
        for wnid in wnids:
            if classes is None or wnid in classes:
                items += [folder / "train" / wnid / file for file in _names(folder / "train" / wnid)]
                names += [wnid] * (len(items) - len(names))
        trained = len(items)
        for file, wnid in _validation(folder / "val", table if "val" in flat else None, warnings):
            if classes is None or wnid in classes:
                items.append(file)
                names.append(wnid)
    warnings.append(f"{folder}: val is the test split, as in publications; validation is drawn from train")
    if (folder / "test").is_dir():
        warnings.append(f"{folder / 'test'}: has no labels and is left out")
    position = {wnid: n for n, wnid in enumerate(wnids)}
    if strange := sorted(set(names) - set(wnids)):
        raise DataError(f"data.path: {folder}: val has images of class {some(strange)}, for which train has no folder")
    labels = np.array([position[name] for name in names], np.int64)
    splits = ["train"] * trained + ["test"] * (len(items) - trained)
    origins = [file.relative_to(folder).as_posix() for file in items]
    return Listing(wnids, items, labels, splits, origins, folder, warnings)


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted, without hidden files."""
    return sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.is_dir() else []  # noqa: PTH208


def _validation(folder: Path, table: Path | None, warnings: list[str]) -> list[tuple[Path, str]]:
    """Every validation image with its WordNet id, by its row of ``table`` or by its folder."""
    if table is None:
        return [(folder / wnid / file, wnid) for wnid in _names(folder) for file in _names(folder / wnid)]
    wnid_of = {}
    for number, row in enumerate(read_table(table, ("imageid", "predictionstring"), needed="imageid"), start=2):
        wnids = {word for word in row["predictionstring"].split() if is_wnid(word)}
        if len(wnids) != 1:
            raise DataError(
                f"{table}: row {number} has {len(wnids)} WordNet ids ({row['predictionstring'][:40]!r}), wanted one"
            )
        wnid_of[row["imageid"].removesuffix(".JPEG")] = wnids.pop()
    files = _names(folder)
    if lost := [file for file in files if Path(file).stem not in wnid_of]:
        raise DataError(f"data.path: {folder}: {len(lost):,} images have no row in {table}: {some(lost, 3)}")
    if absent := sorted(wnid_of.keys() - {Path(file).stem for file in files}):
        warnings.append(f"{table}: {len(absent):,} rows name images that are not there: {some(absent, 3)}")
    return [(folder / file, wnid_of[Path(file).stem]) for file in files]
