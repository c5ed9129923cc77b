"""A folder of class folders: ``path/<class>/files`` or ``path/<split>/<class>/files``."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.library_errors import translate_errors
from ims3core.errors import DataError
from ims3core.ingest.classes import normal
from ims3core.ingest.listing import ROLES, Listing, roles

NOT_IMAGES = {"thumbs.db", "desktop.ini"}
NOT_CLASSES = {"__macosx", "@eadir", "$recycle.bin", "system volume information"}  # of macOS, Synology and Windows


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """Every file below a class folder as one image; hidden files are left out and hidden folders not looked into.

    ``val`` and the like are the test split where there is no ``test`` beside them, as in ImageNet. Every class folder
    gives a name, but only those among ``classes`` are looked into: ten classes of ImageNet need no list of its
    1.3 million files.
    """
    path = Path(section.path).expanduser()
    if not path.is_dir():
        raise DataError(
            f"data.path: {path}: no such folder" if not path.exists() else f"data.path: {path}: not a folder"
        )
    with translate_errors(f"data.path: {path}"):
        splits, warnings = _splits(path, section.splits)
        names = sorted({child.name for folder in splits for child in _folders(folder)})
    if not names:
        raise DataError(f"data.path: {path}: found no class folders, wanted <class>/<image> or train/<class>/<image>")
    _check_layout(splits)
    items: list[Path] = []
    labels, roles_of_items = [], []
    for folder, split in splits.items():
        for label, name in enumerate(names):
            if classes is not None and normal(name) not in classes:
                continue
            with translate_errors(f"data.path: {folder / name}"):
                images = _files(folder / name)
            if not images:
                raise DataError(f"data.path: {folder if not (folder / name).is_dir() else folder / name}: found no "
                                f"image of class {name}, wanted at least one")  # fmt: skip
            items += images
            labels += [label] * len(images)
            roles_of_items += [split] * len(images)
    if "imagenette" in path.name or "imagewoof" in path.name:
        warnings.append(
            "test images of fastai's imagenette and imagewoof are largely ImageNet training images, which DiT and "
            "ImageNet encoders have seen; the paper tests on ImageNet's own validation images"
        )
    origins = [file.relative_to(path).as_posix() for file in items]
    return Listing(names, items, np.array(labels, dtype=np.int64), roles_of_items, origins, path, warnings)


def _splits(path: Path, chosen: dict[str, str] | None) -> tuple[dict[Path, str], list[str]]:
    """The folders of splits with their roles, and warnings; ``path`` itself where its folders are classes."""
    children = _folders(path)
    splits = [child for child in children if child.name in (chosen or {}).values() or child.name in ROLES]
    kinds = {ROLES.get(child.name, "") for child in splits}
    if not chosen and ("train" not in kinds or len(splits) != len(children)):
        if {"train", "test"} <= kinds:
            extra = next(child for child in children if child not in splits)
            raise DataError(f"data.path: {extra}: found beside train and test folders, wanted nothing else there")
        return {path: "all"}, []
    role_of, warnings = roles([child.name for child in splits], chosen, where=str(path))
    return {path / name: role for name, role in role_of.items()}, warnings


def _check_layout(splits: dict[Path, str]) -> None:
    """Raises a DataError for a split without any folder of the classes to train on."""
    train = next((folder for folder, role in splits.items() if role == "train"), None)
    if train is None:
        return
    classes = {child.name for child in _folders(train)}
    for folder, role in splits.items():
        names = {child.name for child in _folders(folder)}
        if role != "train" and not names & classes:
            content = f"found folders {', '.join(sorted(names)[:3])}" if names else "found files and no folders"
            raise DataError(
                f"data.path: {folder}: its images are not in folders of their class ({content}), wanted "
                f"<class>/<image> with the class names of {train.name}; sort them into class folders, or move the "
                "folder away so that the split is drawn from the rest"
            )


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and _can_be_class(child.name))


def _can_be_class(name: str) -> bool:
    """Whether a folder can be a class: not hidden, and none that a system leaves."""
    return not name.startswith(".") and name.lower() not in NOT_CLASSES


def _files(folder: Path) -> list[Path]:
    """Every file below ``folder`` that is not hidden, nor in a hidden folder, sorted."""
    images = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _can_be_class(name)]
        images += [Path(place) / name for name in names if not name.startswith(".") and name.lower() not in NOT_IMAGES]
    return sorted(images)
