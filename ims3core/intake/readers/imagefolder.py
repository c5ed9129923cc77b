"""A folder of class folders: ``path/<class>/files`` or ``path/<split>/<class>/files``."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.intake.classes import normal
from ims3core.intake.listing import ROLES, Listing, roles
from ims3core.shell.border import foreign
from ims3core.shell.errors import DataError

NOT_IMAGES = {"thumbs.db", "desktop.ini"}
NOT_CLASSES = {"__macosx", "@eadir", "$recycle.bin", "system volume information"}  # of macOS, Synology and Windows


def read(wanted: Any, classes: Collection[str] | None = None) -> Listing:
    """Every file below a class folder that is not hidden counts as an image, and no hidden folder is looked into.

    ``val`` and the like are the test split where there is no ``test`` beside them, as in ImageNet. Every class folder
    gives a name, but only those among ``classes`` are looked into: ten classes of ImageNet need no list of its
    1.3 million files.
    """
    path = Path(wanted.path).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.path: {path}: no such folder" if not path.exists() else f"data.path: {path}: not a folder"
        )
    with foreign(f"data.path: {path}"):
        splits, warnings = _splits(path, wanted.splits)
        names = sorted({child.name for folder in splits for child in _folders(folder)})
    if not names:
        raise DataError(f"data.path: {path}: found no class folders, wanted <class>/<image> or train/<class>/<image>")
    _check_layout(splits)
    items: list[Path] = []
    labels, of_split, origins = [], [], []
    for folder, split in splits.items():
        for label, name in enumerate(names):
            if classes is not None and normal(name) not in classes:
                continue
            with foreign(f"data.path: {folder / name}"):
                found = _files(folder / name)
            if not found:
                raise DataError(f"data.path: {folder if not (folder / name).is_dir() else folder / name}: found no "
                                f"image of class {name}, wanted at least one")  # fmt: skip
            items += found
            labels += [label] * len(found)
            of_split += [split] * len(found)
            origins += [file.relative_to(path).as_posix() for file in found]
    if "imagenette" in path.name or "imagewoof" in path.name:
        warnings.append(
            "test images of fastai's imagenette and imagewoof are largely ImageNet training images, which DiT and "
            "ImageNet encoders have seen; the paper tests on ImageNet's own validation images"
        )
    return Listing(names, items, np.array(labels, dtype=np.int64), of_split, origins, path, warnings)


def _splits(path: Path, chosen: dict[str, str] | None) -> tuple[dict[Path, str], list[str]]:
    """Folder -> split; ``path`` itself, to be divided, where its folders are classes."""
    children = _folders(path)
    known = [child for child in children if child.name in (chosen or {}).values() or child.name in ROLES]
    kinds = {ROLES.get(child.name, "") for child in known}
    if not chosen and ("train" not in kinds or len(known) != len(children)):
        if {"train", "test"} <= kinds:
            extra = next(child for child in children if child not in known)
            raise DataError(f"data.path: {extra}: found beside train and test folders, wanted nothing else there")
        return {path: "all"}, []
    named, warnings = roles([child.name for child in known], chosen, where=str(path))
    return {path / name: role for name, role in named.items()}, warnings


def _check_layout(splits: dict[Path, str]) -> None:
    """Refuses a split whose images are not in folders of the classes to train on."""
    train = next((folder for folder, role in splits.items() if role == "train"), None)
    if train is None:
        return
    classes = {child.name for child in _folders(train)}
    for folder, role in splits.items():
        own = {child.name for child in _folders(folder)}
        if role != "train" and not own & classes:
            found = f"found folders {', '.join(sorted(own)[:3])}" if own else "found files and no folders"
            raise DataError(
                f"data.path: {folder}: its images are not in folders of their class ({found}), wanted "
                f"<class>/<image> with the class names of {train.name}; sort them into class folders, or move the "
                "folder away so that the split is drawn from the rest"
            )


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and _counts(child.name))


def _counts(name: str) -> bool:
    """Whether a folder can be a class: not hidden, and none that a system leaves."""
    return not name.startswith(".") and name.lower() not in NOT_CLASSES


def _files(folder: Path) -> list[Path]:
    """Every file below ``folder`` that is not hidden, nor in a hidden folder, sorted."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _counts(name)]
        found += [Path(place) / name for name in names if not name.startswith(".") and name.lower() not in NOT_IMAGES]
    return sorted(found)
