"""A named data set of torchvision; files that are not there are downloaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.intake.listing import Listing, from_arrays
from ims3core.shell.border import reason
from ims3core.shell.errors import DataError


def read(wanted: Any, classes: Collection[str] | None = None) -> Listing:
    """Training and test images as torchvision holds them, read from files first and only then from the network."""
    from torchvision import datasets

    name, path = wanted.name, Path(wanted.path).expanduser()
    parts = {}
    for role, train in (("train", True), ("test", False)):
        try:
            part = getattr(datasets, name)(str(path), train=train, download=False)
        except Exception as error:  # whatever a broken file makes it raise
            part = _fetch(getattr(datasets, name), name, path, train, error)
        parts[role] = (np.asarray(part.data), np.asarray(part.targets))
    return from_arrays(list(part.classes), parts, where=f"data.path: {path}: {name}")


def _fetch(kind: Any, name: str, path: Path, train: bool, first: Exception) -> Any:
    """The data set after a download, where its files are not there yet; else what is wrong with them."""
    there = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    if there and not (isinstance(first, RuntimeError) and "not found" in str(first).lower()):
        raise DataError(
            f"data.path: {path}: a file of {name} there is broken or incomplete ({reason(first)}); "
            f"its files: {', '.join(file.name for file in there[:8])}"
        ) from first
    try:
        return kind(str(path), train=train, download=True)
    except Exception as error:
        beside = f"; there are {', '.join(file.name for file in there[:8])}, under other names" if there else ""
        raise DataError(
            f"data.path: {path}: no complete {name} and no download ({reason(error)}){beside}; "
            f"get it where there is a network: torchvision.datasets.{name}({str(path)!r}, download=True)"
        ) from error
