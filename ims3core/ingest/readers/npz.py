"""An npz archive: ``images`` and ``labels``, or ``<split>_images`` and ``<split>_labels`` (the MedMNIST layout)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError, some
from ims3core.ingest.listing import Listing, from_arrays, role_named, roles, whole_labels


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """Images are (N, H, W) or (N, H, W, C), uint8 or uint16; ``class_names`` is optional.

    A test split without labels, as competitions have it, is left out.
    """
    path = Path(section.path).expanduser()
    where = f"data.path: {path}"
    arrays = _arrays(path, where)
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
    role_of, warnings = {"": "all"}, _unused(arrays, pairs, section.splits, where)
    if set(pairs) != {""}:
        role_of, more = roles([name for name in pairs if name], section.splits, where=str(path))
        warnings += more
    parts = {role: pairs[name] for name, role in role_of.items()}
    checked = [whole_labels(labels, classes=None, where=where) for _, labels in parts.values()]
    count = 1 + max((int(labels.max()) for labels in checked if len(labels)), default=0)
    names = [str(c) for c in range(count)]
    if "class_names" in arrays:
        names = _names(arrays["class_names"], where)
        if len(names) < count:
            raise DataError(f"{where}: labels go to {count - 1}, class_names has {len(names)} names")
    return from_arrays(names, parts, where=where, warnings=warnings)


def _arrays(path: Path, where: str) -> dict[str, np.ndarray]:
    """What is in the archive."""
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
        return {key: archive[key] for key in archive.files}


def _unused(
    arrays: dict[str, np.ndarray], pairs: Collection[str], chosen: dict[str, str] | None, where: str
) -> list[str]:  # fmt: skip
    """Warnings about arrays that are not used.

    Raises:
        DataError: images that are not used and are neither a test split without labels nor left out by ``data.splits``.
    """
    used = {f"{split}_{kind}" if split else kind for split in pairs for kind in ("images", "labels")}
    used |= {f"{split}{kind}" for split in pairs for kind in ("images", "labels")}
    rest = [key for key in arrays if key not in used and key != "class_names"]
    splits = [name for name in pairs if name]
    if splits and not chosen and (lone := [key for key in arrays if key in ("images", "labels")]):
        reading = ", ".join(f"{role}: {name}" for name in splits if (role := role_named(name)))
        raise DataError(
            f"{where}: found {' and '.join(lone)} beside {some([f'{name}_images' for name in splits], 3)}; wanted the "
            f"one or the others; data.splits: {{{reading}}} reads the others"
        )
    warnings = []
    for key in [key for key in rest if key.endswith(("images", "labels"))]:
        split, other = key[:-6].rstrip("_"), "labels" if key.endswith("images") else "images"
        if role_named(split) == "test" and other == "labels" and not chosen:
            warnings.append(f"{where}: {key} has no labels and is left out")
        elif not chosen or split in chosen.values():
            raise DataError(f"{where}: found {key} and no {key[:-6]}{other}, wanted both or none of them")
        rest.remove(key)
    return warnings + ([f"{where}: {some(rest)}: no images or labels, left out"] if rest else [])


def _names(array: np.ndarray, where: str) -> list[str]:
    """Class names as text, which old archives have as bytes."""
    if array.dtype.kind == "S":
        with translate_errors(f"{where}: class_names are bytes, wanted text or UTF-8"):
            array = np.char.decode(array, "utf-8")
    return [str(name) for name in array.reshape(-1)]
