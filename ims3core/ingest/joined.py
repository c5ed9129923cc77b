"""Class folders of some splits, and pictures of others that lie side by side and have their labels in a table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ims3core.errors import DataError, some
from ims3core.ingest.classes import normal
from ims3core.ingest.listing import Listing


def folders_of(root: Path, flat: Collection[Path], found: Listing) -> list[Path] | None:
    """Which of the ``flat`` folders every picture of ``found`` is in; None where some are in none of them.

    Raises:
        DataError: no picture of one of the folders has a label.
    """
    first, places = next(iter(flat)), list[Path]()
    for file in map(root.joinpath, found.origins):
        place = next((folder for folder in flat if folder in file.parents), None)
        if place is None and file.exists():
            return None
        places.append(place or first)  # a picture that is not there is left out or named later
    if left := [folder for folder in flat if folder not in places]:
        raise DataError(f"data.path: {left[0]}: its pictures are neither in folders of their class nor in a table")
    return places


def join(listing: Listing, found: Listing, splits: Sequence[str], where: str) -> Listing:
    """The pictures of class folders, then those of a table, whose labels are these classes.

    Args:
        splits: the role of every picture of ``found``.

    Raises:
        DataError: a label of the table is no class folder.
    """
    number = {normal(name).replace(" ", "_"): index for index, name in enumerate(listing.names)}
    if strange := [name for name in found.names if normal(name) not in number]:
        raise DataError(f"{where}: a table of pictures outside of class folders has the label {strange[0]!r}, which "
                        f"is no class folder ({some(listing.names, 3)})")  # fmt: skip
    position = np.array([number[normal(name)] for name in found.names], np.int64)
    return replace(
        listing,
        items=[*listing.items, *found.items],
        labels=np.concatenate([listing.labels, position[found.labels]]),
        splits=[*listing.splits, *splits],
        origins=[*listing.origins, *found.origins],
        warnings=[*listing.warnings, *found.warnings],
    )
