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
from ims3core.ingest.folders import NOT_IMAGES, TEXTS, can_be_class, class_folders, files_below, loose_pictures
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
        items, names, warnings, left = list[Path](), list[str](), list[str](), list[Path]()
        for wnid in wnids:
            if classes is None or wnid in classes:
                items += _pictures(folder / "train" / wnid, left)
                names += [wnid] * (len(items) - len(names))
        trained = len(items)
        for file, wnid in _validation(folder / "val", table if "val" in flat else None, warnings, left):
            if classes is None or wnid in classes:
                items.append(file)
                names.append(wnid)
    warnings.append(f"{folder}: val is the test split, as in publications; validation is drawn from train")
    if left:
        listed = some([file.relative_to(folder).as_posix() for file in left], 3)
        warnings.append(f"{folder}: {len(left):,} files that are no pictures of a class are left out: {listed}")
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
    """What is in a folder, sorted, without hidden files and those that systems leave."""
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
    return sorted(name for name in names if can_be_class(name) and name.lower() not in NOT_IMAGES)


def _pictures(folder: Path, left: list[Path]) -> list[Path]:
    """The files below a folder, sorted; tables and texts, such as boxes, are added to ``left`` instead."""
    found = files_below(folder)
    left += [file for file in found if file.name.lower().endswith(TEXTS)]
    return [file for file in found if not file.name.lower().endswith(TEXTS)]


def _validation(
    folder: Path, table: Path | None, warnings: list[str], left: list[Path]
) -> list[tuple[Path, str]]:  # fmt: skip
    """Every validation image with its WordNet id, by its row of ``table`` or by its folder."""
    if table is None:
        left += [folder / name for name in loose_pictures(folder)]
        return [(file, child.name) for child in class_folders(folder) for file in _pictures(child, left)]
    wnid_of = {}
    for number, row in enumerate(read_table(table, ("imageid", "predictionstring"), needed="imageid"), start=2):
        wnids = {word for word in row["predictionstring"].split() if is_wnid(word)}
        if len(wnids) != 1:
            raise DataError(
                f"{table}: row {number} has {len(wnids)} WordNet ids ({row['predictionstring'][:40]!r}), wanted one"
            )
        wnid_of[row["imageid"].removesuffix(".JPEG")] = wnids.pop()
    files = _pictures(folder, left)
    if lost := [file.name for file in files if file.stem not in wnid_of]:
        raise DataError(f"data.path: {folder}: {len(lost):,} images have no row in {table}: {some(lost, 3)}")
    if absent := sorted(wnid_of.keys() - {file.stem for file in files}):
        warnings.append(f"{table}: {len(absent):,} rows name images that are not there: {some(absent, 3)}")
    return [(file, wnid_of[file.stem]) for file in files]
