"""Class folders whose pictures are numbered in lists beside them, as in CUB-200-2011 and NABirds, with their split."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError, some
from ims3core.ingest.classes import normal
from ims3core.ingest.folders import check_names, is_picture, names_below
from ims3core.ingest.listing import Files, Listing

PICTURES, NAMES, SPLIT = "images", "images.txt", "train_test_split.txt"
PARTS = {"1": "train", "0": "test"}


def read(path: Path, classes: Collection[str] | None = None) -> Listing | None:
    """The pictures that ``images.txt`` names, divided by ``train_test_split.txt``; None if ``path`` is something else.

    Args:
        path: the folder with both lists and the folder ``images``, whose folders are the classes.
        classes: names, :func:`normal`, of the classes to read; None: all.

    Raises:
        DataError: a line that is no number and value, a picture outside of a class folder or without a split.
    """
    if not (path / PICTURES).is_dir() or not all((path / name).is_file() for name in (NAMES, SPLIT)):
        return None
    with translate_errors(f"data.path: {path}"):
        name_of, part_of = _pairs(path / NAMES), _pairs(path / SPLIT)
        there = set(names_below(path / PICTURES))
    for number, name in name_of.items():
        if len(PurePosixPath(name).parts) < 2:
            raise DataError(f"data.path: {path / NAMES}: picture {number} is {name!r}, wanted <class>/<image>")
        if part_of.get(number) not in PARTS:
            found = repr(part_of[number]) if number in part_of else "no line"
            raise DataError(f"data.path: {path / SPLIT}: found {found} for picture {number} of {NAMES} ({name}), "
                            "wanted 1 (train) or 0 (test)")  # fmt: skip
    check_names(name_of.values(), path)
    class_of = {number: PurePosixPath(name).parts[0] for number, name in name_of.items()}
    kept = [number for number in name_of if classes is None or normal(class_of[number]) in classes]
    kept.sort(key=name_of.__getitem__)
    names = sorted(set(class_of.values()))
    position = {name: index for index, name in enumerate(names)}
    warnings = []
    if left := sorted(name for name in there - set(name_of.values()) if is_picture(name)):
        warnings.append(f"{path / NAMES}: {len(left):,} pictures are not in it and are left out: {some(left, 3)}")
    origins = [f"{PICTURES}/{name_of[number]}" for number in kept]
    return Listing(
        names, Files(path, origins),
        np.array([position[class_of[number]] for number in kept], np.int64),
        [PARTS[part_of[number]] for number in kept],
        origins, path, warnings=warnings,
    )  # fmt: skip


def _pairs(table: Path) -> dict[str, str]:
    """The lines ``<number> <value>`` of a list.

    Raises:
        DataError: a line without a value, or a number for the second time.
    """
    found: dict[str, str] = {}
    for row, line in enumerate(table.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        number, _, value = line.strip().partition(" ")
        if not value or number in found:
            what = "a second line for it" if value else "nothing behind it"
            raise DataError(f"data.path: {table}: row {row}: found {number[:40]!r} and {what}, wanted one line "
                            "<number> <value> a picture")  # fmt: skip
        found[number] = value.strip()
    return found


def above(path: Path) -> list[str]:
    """A warning where class folders lie in a set whose own split is beside them, and is read one level higher."""
    for name in (SPLIT, "meta/test.json"):
        if (table := path.resolve().parent / name).is_file() and path.name == PICTURES:
            return [f"{table} divides these pictures and is not used; data.path: {path.parent} reads it"]
    return []
