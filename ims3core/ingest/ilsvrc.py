"""ILSVRC's CLS-LOC and Tiny-ImageNet as downloaded: train/<wnid>, all of val in one folder, its labels in a table."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.data.spreadsheet import read_cells, read_table
from ims3core.errors import DataError, some
from ims3core.ingest.classes import is_wnid
from ims3core.ingest.folders import NOT_IMAGES, TEXTS, can_be_class, class_folders, loose_pictures, names_below
from ims3core.ingest.listing import Files, Listing

LABELS = "LOC_val_solution.csv"  # ImageId, PredictionString: the class's WordNet id, then the corners of boxes
TINY = "val_annotations.txt"  # of Tiny-ImageNet: name, WordNet id, corners of a box; no header
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
        places = [place / LABELS for place in (folder, *folder.parents[:3])] + [folder / "val" / TINY]
        table = next((place for place in places if place.is_file()), None)
        if "val" in flat and table is None:
            return None
        origins, names, warnings, left = list[str](), list[str](), list[str](), list[Path]()
        for wnid in wnids:
            if classes is None or wnid in classes:
                origins += [f"train/{wnid}/{name}" for name in _pictures(folder / "train" / wnid, left)]
                names += [wnid] * (len(origins) - len(names))
        trained = len(origins)
        for name, wnid in _validation(folder / "val", table if "val" in flat else None, warnings, left):
            if classes is None or wnid in classes:
                origins.append(f"val/{name}")
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
    splits = ["train"] * trained + ["test"] * (len(origins) - trained)
    return Listing(wnids, Files(folder, origins), labels, splits, origins, folder, warnings)


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted, without hidden files and those that systems leave."""
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
    return sorted(name for name in names if can_be_class(name) and name.lower() not in NOT_IMAGES)


def _pictures(folder: Path, left: list[Path]) -> list[str]:
    """The names of the files below a folder, sorted; tables and texts, such as boxes, are added to ``left`` instead."""
    found = names_below(folder)
    left += [folder / name for name in found if name.lower().endswith(TEXTS)]
    return [name for name in found if not name.lower().endswith(TEXTS)]


def _validation(
    folder: Path, table: Path | None, warnings: list[str], left: list[Path]
) -> list[tuple[str, str]]:  # fmt: skip
    """Every validation image, as a name below ``folder``, with its WordNet id: by a row of ``table`` or its folder."""
    if table is None:
        left += [folder / name for name in loose_pictures(folder)]
        return [(f"{child.name}/{name}", child.name) for child in class_folders(folder)
                for name in _pictures(child, left)]  # fmt: skip
    wnid_of = _table(table)
    names = [PurePosixPath(name) for name in _pictures(folder, left)]
    left[:] = [file for file in left if file != table]
    if lost := [name.name for name in names if name.stem not in wnid_of]:
        raise DataError(f"data.path: {folder}: {len(lost):,} images have no row in {table}: {some(lost, 3)}")
    if absent := sorted(wnid_of.keys() - {name.stem for name in names}):
        warnings.append(f"{table}: {len(absent):,} rows name images that are not there: {some(absent, 3)}")
    return [(name.as_posix(), wnid_of[name.stem]) for name in names]


def _table(table: Path) -> dict[str, str]:
    """The WordNet id of every validation image by its name without ending."""
    if table.name == TINY:
        rows = [(row[0], " ".join(row[1:2])) for row in read_cells(table)[0]]
    else:
        found = read_table(table, ("imageid", "predictionstring"), needed="imageid")
        rows = [(row["imageid"], row["predictionstring"]) for row in found]
    wnid_of = {}
    for number, (name, text) in enumerate(rows, start=1 if table.name == TINY else 2):
        wnids = {word for word in text.split() if is_wnid(word)}
        if len(wnids) != 1:
            raise DataError(f"{table}: row {number} has {len(wnids)} WordNet ids ({text[:40]!r}), wanted one")
        wnid_of[PurePosixPath(name).stem] = wnids.pop()
    return wnid_of
