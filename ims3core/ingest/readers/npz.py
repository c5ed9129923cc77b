"""An npz archive: ``images`` and ``labels``, or ``<split>_images`` and ``<split>_labels`` (the MedMNIST layout)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError
from ims3core.ingest.listing import Listing, from_arrays, roles, whole_labels


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """Images are (N, H, W) or (N, H, W, C), uint8 or uint16; ``class_names`` is optional."""
    path = Path(section.path).expanduser()
    where = f"data.path: {path}"
    if not path.is_file():
        raise DataError(f"{where}: no such file" if not path.exists() else f"{where}: not a file")
    kind = disguised_as(path) or format_of(path, pictures=True)
    if kind is not None and "zip archive" not in kind:
        raise DataError(f"{where}: {kind}, wanted an npz archive")
    with (
        translate_errors(f"{where}: not an npz archive of plain arrays"),
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as archive,
    ):
        arrays = {key: archive[key] for key in archive.files}
    pairs = {
        key.removesuffix("images").rstrip("_"): (arrays[key], arrays[f"{key.removesuffix('images')}labels"])
        for key in arrays
        if key.endswith("images") and f"{key.removesuffix('images')}labels" in arrays
    }
    if not pairs:
        raise DataError(
            f"{where}: found {', '.join(arrays) or 'nothing'}; wanted images and labels, or train_images, "
            "train_labels, ..."
        )
    role_of, warnings = {"": "all"}, list[str]()
    if set(pairs) != {""}:
        role_of, warnings = roles([name for name in pairs if name], section.splits, where=str(path))
    parts = {role: pairs[name] for name, role in role_of.items()}
    checked = [whole_labels(labels, classes=None, where=where) for _, labels in parts.values()]
    count = 1 + max((int(labels.max()) for labels in checked if len(labels)), default=0)
    names = [str(c) for c in range(count)]
    if "class_names" in arrays:
        names = [str(name) for name in arrays["class_names"].reshape(-1)]
        if len(names) < count:
            raise DataError(f"{where}: labels go to {count - 1}, class_names has {len(names)} names")
    return from_arrays(names, parts, where=where, warnings=warnings)
