"""Class folders of some splits, and pictures of others that lie side by side and have their labels in a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ims3core.errors import DataError, some
from ims3core.ingest.classes import normal
from ims3core.ingest.listing import Files, Listing


def outside(
    root: Path, flat: Collection[Path], split: Collection[Path], found: Listing
) -> tuple[Listing, list[Path]] | None:  # fmt: skip
    """The pictures of ``found`` in the ``flat`` folders, each with its folder; None where it has some of class folders.

    Pictures that are in neither are left out with a warning.

    Args:
        split: the folders of class folders.

    Raises:
        DataError: no picture of one of the flat folders has a label.
    """
    first, places = next(iter(flat)), list[Path | None]()
    for file in map(root.joinpath, found.origins):
        if any(folder in file.parents for folder in split):
            return None
        place = next((folder for folder in flat if folder in file.parents), None)
        places.append(place if place or file.exists() else first)  # one that is not there is left out or named later
    if left := [folder for folder in flat if folder not in places]:
        why = next((f"; {line}" for line in found.warnings if line.startswith("a table is not used")), "")
        raise DataError(f"data.path: {left[0]}: its pictures are neither in folders of their class nor in a table{why}")
    rows = np.flatnonzero([place is not None for place in places])
    labels = set(found.labels[rows].tolist())
    kept = found.rows(rows).restricted([name for label, name in enumerate(found.names) if label in labels])
    if out := [origin for origin, place in zip(found.origins, places, strict=True) if place is None]:
        line = f"{root}: {len(out):,} pictures of a table are in no folder of a split and are left out: {some(out, 3)}"
        kept.warnings = [*found.warnings, line]
    return kept, [place for place in places if place is not None]


def join(root: Path, listing: Listing, found: Listing, splits: Sequence[str]) -> Listing:
    """The pictures of class folders, then those of a table, whose labels are these classes.

    Args:
        root: what the names of both are below.
        splits: the role of every picture of ``found``.

    Raises:
        DataError: a label of the table is no class folder.
    """
    number = {normal(name).replace(" ", "_"): index for index, name in enumerate(listing.names)}
    whole = {str(int(name)): index for name, index in number.items() if name.isdecimal()}
    number = (whole if len(whole) == len(number) else {}) | number  # class 7 is the folder 00007
    if strange := [name for name in found.names if normal(name) not in number]:
        raise DataError(
            f"data.path: {root}: a table of pictures outside of class folders has the label {strange[0]!r}, which is "
            f"no class folder ({some(listing.names, 3)})"
        )
    origins = [*listing.origins, *found.origins]
    position = np.array([number[normal(name)] for name in found.names], np.int64)
    return replace(
        listing,
        items=Files(root, origins),
        labels=np.concatenate([listing.labels, position[found.labels]]),
        splits=[*listing.splits, *splits],
        origins=origins,
        warnings=[*listing.warnings, *found.warnings],
    )
