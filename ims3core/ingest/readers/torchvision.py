"""A named data set of torchvision; files that are not there are downloaded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.library_errors import reason
from ims3core.errors import DataError
from ims3core.ingest.listing import Listing, from_arrays


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """Training and test images as torchvision holds them, read from files first and only then from the network."""
    from torchvision import datasets

    name, path = section.name, Path(section.path).expanduser()
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
    present = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    if present and not (isinstance(first, RuntimeError) and "not found" in str(first).lower()):
        raise DataError(
            f"data.path: {path}: a file of {name} there is broken or incomplete ({reason(first)}); "
            f"its files: {', '.join(file.name for file in present[:8])}"
        ) from first
    try:
        return kind(str(path), train=train, download=True)
    except Exception as error:
        others = f"; there are {', '.join(file.name for file in present[:8])}, under other names" if present else ""
        raise DataError(
            f"data.path: {path}: no complete {name} and no download ({reason(error)}){others}; "
            f"get it where there is a network: torchvision.datasets.{name}({str(path)!r}, download=True)"
        ) from error
