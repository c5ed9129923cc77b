"""The images, labels and splits of a data source, and the checks that all sources share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.data.decode import StoredImages
from ims3core.errors import DataError, some, visible

ROLES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
MOST_CLASSES = 1_000_000
LONGEST_NAME = 200  # bytes of a folder's name, with room for what is put around it


@dataclass
class Listing:
    """All images of a source, undecoded.

    Attributes:
        names: class names in the source's order, which can be folders.
        items: what :func:`ims3core.data.decode.decode` takes, one per image.
        labels: index into ``names``, one per image.
        splits: ``train``, ``validation``, ``test`` or ``all``, one per image.
        origins: what to call an image in a message; a path relative to ``folder`` where it is a file.
        folder: where the files are, if they are files.
        warnings: what the user should know about the splits.
        hint: what was probably meant where the classes are not the wanted ones, as the end of a message.
    """

    names: list[str]
    items: StoredImages
    labels: np.ndarray
    splits: list[str]
    origins: list[str]
    folder: Path | None = None
    warnings: list[str] = field(default_factory=list)
    hint: str = ""

    def restricted(self, names: list[str]) -> Listing:
        """The images of the classes ``names`` only, numbered in that order."""
        position = {name: index for index, name in enumerate(names)}
        number = np.array([position.get(name, -1) for name in self.names])
        labels = number[self.labels] if len(self.labels) else self.labels
        return replace(self, names=names, labels=labels).rows(np.flatnonzero(labels >= 0))

    def rows(self, keep: np.ndarray) -> Listing:
        """Some of the images, by their row numbers."""
        items = self.items[keep] if isinstance(self.items, np.ndarray) else _Subset(self.items, keep)
        splits, origins = [self.splits[row] for row in keep], [self.origins[row] for row in keep]
        return replace(self, items=items, labels=self.labels[keep], splits=splits, origins=origins)


class Files(Sequence):
    """Files by their names below a folder; a path, which takes several times the memory, is made when it is used."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._folder / name for name in self._names[key]]
        return self._folder / self._names[key]


class _Subset(Sequence):
    """Some rows of a sequence that is read on demand."""

    def __init__(self, items: Sequence, rows: np.ndarray) -> None:
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._items[int(row)] for row in self._rows[key]]
        return self._items[int(self._rows[key])]


def role_named(split: str) -> str | None:
    """The role of a split of this name, in capitals or not; None: not the name of a split."""
    return ROLES.get(split.lower())


def splits_in(name: str) -> dict[str, str]:
    """The words of a name that say a split, in small letters, with their roles.

    ``train`` in ``seg_train``, ``trainImages``, ``trainset`` and ``TRAIN2017``.
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    plain = [re.sub(r"(?i)(set|data|images?|imgs?|files)$", "", word).lower() for word in words]
    return {word: role for word in plain if (role := role_named(word))}


def roles_in(name: str) -> set[str]:
    """The roles in the words of a name."""
    return set(splits_in(name).values())


def roles(splits: Collection[str], chosen: Mapping[str, str] | None, *, where: str) -> tuple[dict[str, str], list[str]]:
    """The role of each split of a source, ``train``, ``validation``, ``test`` or ``all``, and warnings for the user.

    Without a test split the validation split takes its place; a single split, or training images alone, are divided.

    Args:
        splits: the names that the source gives them.
        chosen: ``data.splits``, role -> name; None: by name.
        where: the source, for messages.

    Raises:
        DataError: a split of an unknown name, two for one role, or a chosen one that is not there.
    """
    if chosen:
        if missing := [name for name in chosen.values() if name not in splits]:
            raise DataError(f"data.splits: {where}: no split {missing[0]!r}; found {some(list(splits))}")
        role_of = {name: role for role, name in chosen.items()}
    else:
        if unknown := [name for name in splits if role_named(name) is None]:
            raise DataError(
                f"data: {where}: split {unknown[0]!r} is unknown; known: {', '.join(ROLES)}; data.splits says what "
                "each is, for example {train: train, test: " + unknown[0] + "}"
            )
        role_of = {name: ROLES[name.lower()] for name in splits}
    for role in set(role_of.values()):
        if len(doubled := [name for name in role_of if role_of[name] == role]) > 1:
            raise DataError(f"data: {where}: splits {' and '.join(doubled)} are both {role}; data.splits chooses")
    if "train" not in role_of.values():
        raise DataError(f"data: {where}: found splits {', '.join(splits)}, none to train on; data.splits names one")
    if "test" in role_of.values():
        return role_of, []
    if "validation" in role_of.values():
        name = next(name for name, role in role_of.items() if role == "validation")
        warning = f"{where}: no test split, {name} takes its place as the test split; validation is drawn from train"
        return role_of | {name: "test"}, [warning]
    return dict.fromkeys(role_of, "all"), []


def folder_names(names: Sequence[str], *, where: str) -> list[str]:
    """Class names that can be folders: slashes and blanks become underscores, what cannot be seen goes.

    Raises:
        DataError: two classes would share a folder, or a name cannot be one.
    """
    folders = []
    for name in names:
        text = "".join("_" if c in "/\\ " else c for c in str(name) if c.isprintable())
        if not text.strip("._") or len(text.encode()) > LONGEST_NAME:
            raise DataError(f"data: {where}: a class called {visible(str(name))[:80]!r} cannot be a folder; rename it")
        folders.append(text.lstrip(".") or text)
    shared, times = Counter(folders).most_common(1)[0] if folders else ("", 0)
    if times > 1:
        twins = [repr(visible(str(name))) for name, folder in zip(names, folders, strict=True) if folder == shared]
        raise DataError(f"data: {where}: classes {' and '.join(twins[:3])} would share the folder {shared!r}")
    return folders


def whole_labels(values: Any, *, classes: int | None, where: str) -> np.ndarray:
    """Labels as int64 (N,), each a whole number in [0, classes).

    Raises:
        DataError: naming the first row whose label is missing, not whole or outside the class table.
    """
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind == "f":
        empty = np.array([value is None or value != value for value in array.tolist()], bool)
        if empty.any():
            raise DataError(
                f"{where}: {int(empty.sum())} rows have no label (null), the first is row {int(empty.argmax())}; "
                "a split without labels cannot be used"
            )
        if array.dtype == object and not all(isinstance(value, int) for value in array.tolist()):
            raise DataError(f"{where}: labels are of type {type(array[0]).__name__}, wanted whole numbers")
        array = np.asarray(array.tolist())
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            row = int((array != np.floor(array)).argmax())
            raise DataError(f"{where}: label {array[row]:g} in row {row} is not a whole number")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise DataError(f"{where}: labels are {array.dtype} of shape {array.shape}, wanted one whole number per image")
    if (huge := np.abs(array.astype(np.float64)) >= MOST_CLASSES).any():
        row = int(huge.argmax())
        raise DataError(f"{where}: label {array[row]} in row {row} cannot be a class; {int(huge.sum())} rows in all")
    array = array.astype(np.int64)
    outside = (array < 0) | (array >= (MOST_CLASSES if classes is None else classes))
    if outside.any():
        row = int(outside.argmax())
        table = "" if classes is None else f", the class table has 0..{classes - 1}"
        hint = " (a split whose labels are hidden?)" if array[row] == -1 else ""
        raise DataError(f"{where}: label {array[row]} in row {row}{table}{hint}; {int(outside.sum())} rows in all")
    return array


def pixel_array(images: Any, *, where: str) -> np.ndarray:
    """Pixels as uint8 or uint16 (N, H, W) or (N, H, W, C), channels last.

    Raises:
        DataError: naming rank, order of axes or type where it is another.
    """
    array = np.asarray(images)
    if array.dtype.kind == "f":
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        raise DataError(
            f"{where}: pixels are {array.dtype} from {low:g} to {high:g}, wanted uint8 or uint16 "
            "(floats from 0 to 1: multiply by 255 and round)"
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{where}: pixels are {array.dtype}, wanted uint8 or uint16")
    if array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        raise DataError(
            f"{where}: shape {array.shape} has the channels first, wanted (images, height, width, channels)"
        )
    if array.ndim not in (3, 4) or (array.shape[-1] not in (1, 3, 4) if array.ndim == 4 else array.shape[-1] < 5):
        raise DataError(
            f"{where}: shape {array.shape}, wanted (images, height, width) or (images, height, width, channels); "
            "flattened images must be reshaped"
        )
    if min(array.shape[1:3], default=1) < 1 or max(array.shape[1:3]) > 64 * min(array.shape[1:3]):
        raise DataError(
            f"{where}: images of {array.shape[1]} x {array.shape[2]} pixels; flattened ones must be reshaped"
        )
    return array


def from_arrays(
    names: Sequence[str], parts: Mapping[str, tuple[Any, Any]], *, where: str, warnings: Sequence[str] = ()
) -> Listing:
    """A listing of pixels in memory, checked.

    Args:
        parts: role -> (images, labels).
    """
    folders, checked = folder_names(names, where=where), {}
    for role, (images, labels) in parts.items():
        place = f"{where}, {role}" if role != "all" else where
        pixels = pixel_array(images, where=place)
        numbers = whole_labels(labels, classes=len(folders), where=place)
        if len(pixels) != len(numbers):
            raise DataError(f"{place}: found {len(pixels)} images and {len(numbers)} labels, wanted as many")
        checked[role] = (pixels, numbers)
    shapes = {pixels.shape[1:] for pixels, _ in checked.values()}
    if len(shapes) > 1:
        raise DataError(f"{where}: splits have images of shapes {', '.join(map(str, sorted(shapes)))}, wanted one")
    splits = [role for role, (images, _) in checked.items() for _ in images]
    origins = [f"{role}[{row}]" for role, (images, _) in checked.items() for row in range(len(images))]
    items = np.concatenate([images for images, _ in checked.values()])
    labels = np.concatenate([numbers for _, numbers in checked.values()])
    return Listing(folders, items, labels, splits, origins, warnings=list(warnings))
