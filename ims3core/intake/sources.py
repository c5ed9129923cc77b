"""Where real images come from: scikit-learn, folders, torchvision, Hugging Face datasets, npz archives.

Every source becomes one :class:`Listing`; from there on nothing knows which source it was.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.data.decode import Stored
from ims3core.shell.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "test": "test",
}
NOT_IMAGES = {"thumbs.db", "desktop.ini"}


@dataclass
class Listing:
    """Everything a source holds, undecoded.

    Attributes:
        names: class names in the source's order.
        items: what :func:`ims3core.data.decode.decode` takes, one per image.
        labels: index into ``names``, one per image.
        splits: ``train``, ``validation``, ``test`` or ``all``, one per image.
        origins: what to call an image in a message; a path relative to ``folder`` where it is a file.
        folder: where the files are, if they are files.
        warnings: what the user should know about the splits.
    """

    names: list[str]
    items: Sequence[Stored]
    labels: np.ndarray
    splits: list[str]
    origins: list[str]
    folder: Path | None = None
    warnings: list[str] = field(default_factory=list)

    def restricted(self, names: list[str]) -> Listing:
        """The images of the classes ``names`` only, numbered in that order."""
        position = {name: index for index, name in enumerate(names)}
        number = np.array([position.get(name, -1) for name in self.names])
        labels = number[self.labels] if len(self.labels) else self.labels
        keep = np.flatnonzero(labels >= 0)
        items = self.items[keep] if isinstance(self.items, np.ndarray) else _Subset(self.items, keep)
        splits, origins = [self.splits[row] for row in keep], [self.origins[row] for row in keep]
        return Listing(names, items, labels[keep], splits, origins, self.folder, self.warnings)


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


def digits() -> Listing:
    """scikit-learn's bundled handwritten digits: 1,797 real grey images of 8x8 pixels, 10 classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)
    names = [str(name) for name in bunch.target_names]
    return _arrays(names, {"all": (grey, bunch.target)})


def imagefolder(path: Path, classes: Collection[str] | None = None) -> Listing:
    """``path/<split>/<class>/files`` or ``path/<class>/files``; every file that is not hidden counts as an image.

    ``val`` is the test split where there is no ``test`` beside it, as in ImageNet. Every class folder gives a name,
    but only those among ``classes`` are looked into: ten classes of ImageNet need no list of its 1.3 million files.
    """
    if not path.is_dir():
        raise DataError(f"data.path: {path}: no such folder")
    splits = {child: SPLIT_FOLDERS[child.name] for child in _folders(path) if child.name in SPLIT_FOLDERS}
    if (val := path / "val").is_dir():
        splits[val] = "validation" if "test" in splits.values() else "test"
    if "train" not in splits.values() or len(splits) != len(_folders(path)):
        if {"train", "test"} <= set(splits.values()):
            extra = next(child for child in _folders(path) if child not in splits)
            raise DataError(f"data.path: {extra}: found beside train and test folders, wanted nothing else there")
        splits = {path: "all"}
    names = sorted({child.name for folder in splits for child in _folders(folder)})
    if not names:
        raise DataError(f"data.path: {path}: found no class folders, wanted <class>/<image> or train/<class>/<image>")
    items: list[Path] = []
    labels, of_split, origins = [], [], []
    for folder, split in splits.items():
        for label, name in enumerate(names):
            if classes is not None and name not in classes:
                continue
            found = _files(folder / name)
            if not found:
                raise DataError(f"data.path: {folder / name}: found no image, wanted at least one")
            items += found
            labels += [label] * len(found)
            of_split += [split] * len(found)
            origins += [file.relative_to(path).as_posix() for file in found]
    warnings = []
    if "imagenette" in path.name or "imagewoof" in path.name:
        warnings.append(
            "test images of fastai's imagenette and imagewoof are largely ImageNet training images, which DiT and "
            "ImageNet encoders have seen; the paper tests on ImageNet's own validation images"
        )
    return Listing(names, items, np.array(labels, dtype=np.int64), of_split, origins, path, warnings)


def torchvision(name: str, path: Path) -> Listing:
    """A named data set of torchvision under ``path``; files that are not there are downloaded."""
    from torchvision import datasets

    parts = {}
    for split, train in (("train", True), ("test", False)):
        try:
            part = getattr(datasets, name)(str(path), train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"data.path: {path}: no complete {name} and no download ({' '.join(str(error).split())[:120]}); "
                f"get it where there is a network: torchvision.datasets.{name}({str(path)!r}, download=True)"
            ) from error
        parts[split] = (np.asarray(part.data), np.asarray(part.targets))
    return _arrays([_folder_name(text) for text in part.classes], parts)


def npz(path: Path) -> Listing:
    """An archive with ``images`` and ``labels``, or ``<split>_images`` and ``<split>_labels`` (the MedMNIST layout).

    Images are (N, H, W) or (N, H, W, C), uint8 or uint16; ``class_names`` is optional.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"data.path: {path}: no such file") from error
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"data.path: {path}: not an npz archive of plain arrays ({error})") from error
    keys = {"all": "", "train": "train_", "validation": "val_", "test": "test_"}
    parts = {
        split: (arrays[f"{prefix}images"], arrays[f"{prefix}labels"].reshape(-1))
        for split, prefix in keys.items()
        if f"{prefix}images" in arrays and f"{prefix}labels" in arrays
    }
    if not parts or ("all" not in parts and "train" not in parts):
        raise DataError(
            f"data.path: {path}: found {', '.join(arrays)}; "
            "wanted images and labels, or train_images, train_labels, ..."
        )
    classes = 1 + max(int(labels.max()) for _, labels in parts.values())
    names = (
        [str(name) for name in arrays["class_names"]] if "class_names" in arrays else [str(c) for c in range(classes)]
    )
    return _arrays(names, parts)


def huggingface(name: str | None, path: Path | None, revision: str | None) -> Listing:
    """A data set of the hub (``name``, pinned by ``revision``) or a folder of parquet files, read by ``datasets``."""
    import datasets

    datasets.disable_progress_bars()
    wanted = name or str(path)
    try:
        loaded = datasets.load_dataset(wanted, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = f"data.name: {name}" if name else f"data.path: {path}"
        raise DataError(f"{where}: not a readable data set ({' '.join(str(error).split())[:200]})") from error
    if set(loaded) == {"train"}:
        loaded = {"all": loaded["train"]}
    parts, names, labels, splits, origins = [], [], [], [], []
    for split, part in loaded.items():
        kind = {"all": "all", **SPLIT_FOLDERS, "val": "validation"}.get(split)
        if kind is None:
            raise DataError(f"data: {wanted}: split {split!r} is unknown; known: train, validation, test")
        image = _feature(part, datasets.Image, "image", wanted)
        label = _feature(part, datasets.ClassLabel, "ClassLabel", wanted)
        names = part.features[label].names
        parts.append(_Bytes(part.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image))
        labels.append(np.asarray(part[label]))
        splits += [kind] * len(part)
        origins += [f"{split}[{row}]" for row in range(len(part))]
    return Listing([_folder_name(text) for text in names], _Chain(parts), np.concatenate(labels), splits, origins)


class _Bytes(Sequence):
    """Encoded images of one column of a ``datasets`` table, read on demand."""

    def __init__(self, table: Any, column: str) -> None:
        self._table, self._column = table, column

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> bytes | Path:
        cell = self._table[row][self._column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])


class _Chain(Sequence):
    """Sequences one after the other, read on demand."""

    def __init__(self, parts: list[Sequence]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[row] for row in range(*key.indices(len(self)))]
        part = int(np.searchsorted(self._ends, key, side="right"))
        return self._parts[part][key - (int(self._ends[part - 1]) if part else 0)]


def _feature(part: Any, kind: type, described: str, name: str) -> str:
    columns = [column for column, feature in part.features.items() if isinstance(feature, kind)]
    if len(columns) != 1:
        raise DataError(
            f"data: {name}: found {len(columns)} {described} columns among {', '.join(part.features)}, wanted one"
        )
    return columns[0]


def _arrays(names: list[str], parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Listing:
    """A listing of pixels in memory."""
    for split, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise DataError(f"data: {split} has {len(images)} images and {len(labels)} labels, wanted as many")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise DataError(f"data: {split} has labels {labels.min()}..{labels.max()} for {len(names)} classes")
    splits = [split for split, (images, _) in parts.items() for _ in images]
    origins = [f"{split}[{row}]" for split, (images, _) in parts.items() for row in range(len(images))]
    items = np.concatenate([images for images, _ in parts.values()])
    return Listing(
        names, items, np.concatenate([labels for _, labels in parts.values()]).astype(np.int64), splits, origins
    )


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """Every file below ``folder`` that is not hidden, sorted."""
    return sorted(
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and name.lower() not in NOT_IMAGES
    )


def _folder_name(text: str) -> str:
    """A class name that can be a folder: 'T-shirt/top' becomes 'T-shirt_top'."""
    return text.replace("/", "_").replace("\\", "_").replace(" ", "_")


def load(
    *, source: str, name: str | None, path: str | None, revision: str | None, classes: Collection[str] | None = None
) -> Listing:
    """The listing of a data source.

    Args:
        classes: names of the classes that will be used, if not all; folders of others are left alone.

    Raises:
        DataError: if it cannot be read, naming key and file.
    """
    folder = None if path is None else Path(path).expanduser()
    readers: dict[str, Callable[[], Listing]] = {
        "digits": digits,
        "imagefolder": lambda: imagefolder(folder, classes),
        "torchvision": lambda: torchvision(name, folder),
        "npz": lambda: npz(folder),
        "huggingface": lambda: huggingface(name, folder, revision),
    }
    return readers[source]()
