"""The real data: sources, the class table, stratified splits and the image sets stages exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ims3core import files
from ims3core.errors import ArtifactError, DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        images: uint8 (N, channels, side, side).
        class_index: int64 (N,), 0 .. classes - 1, our numbering.
    """

    images: torch.Tensor
    class_index: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.class_index):
            raise DataError(f"found {len(self.images)} images and {len(self.class_index)} class labels, wanted as many")

    def unit(self) -> torch.Tensor:
        """The images as float32 in [0, 1]."""
        return self.images.float() / 255

    def signed(self) -> torch.Tensor:
        """The images as float32 in [-1, 1], the range of the VAE."""
        return self.images.float() / 127.5 - 1


@dataclass(frozen=True)
class ClassRow:
    """One class: our index, its folder name, and the label the generator was trained with.

    The three are never mixed: a 10-class subset of ImageNet has ``class_index`` 0..9 but
    ``generator_label`` up to 999 (the trap D8 of the public code).
    """

    class_index: int
    name: str
    generator_label: int


def digits() -> tuple[ImageSet, list[str]]:
    """scikit-learn's bundled handwritten digits: 1,797 real grey images of 8x8 pixels, 10 classes."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    return ImageSet(grey[:, None], torch.from_numpy(bunch.target).long()), [str(name) for name in bunch.target_names]


SOURCES: dict[str, Callable[[], tuple[ImageSet, list[str]]]] = {"digits": digits}


def load_source(name: str) -> tuple[ImageSet, list[str]]:
    """All images and class names of a data source; a DataError lists the known sources."""
    if name not in SOURCES:
        raise DataError(f"data.source: found {name!r}; known: {', '.join(sorted(SOURCES))}")
    images, names = SOURCES[name]()
    counts = torch.bincount(images.class_index, minlength=len(names))
    if empty := [names[i] for i in torch.nonzero(counts == 0).flatten().tolist()]:
        raise DataError(f"data.source {name}: class {', '.join(empty)} has no image, wanted at least one per split")
    return images, names


def content_hashes(images: torch.Tensor) -> list[str]:
    """The SHA-256 of each image's shape and pixels; equal images have equal hashes."""
    shape = str(tuple(images.shape[1:])).encode()
    return [hashlib.sha256(shape + image.numpy().tobytes()).hexdigest() for image in images]


def split(
    images: ImageSet, *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, torch.Tensor]:
    """Row numbers of a stratified train/validation/test split in which no content occurs twice across splits.

    Rows with equal pixels move together: a test image whose twin is in train would be a leak.

    Args:
        validation_fraction: share of all images, in (0, 1).
        test_fraction: share of all images, in (0, 1).
    """
    from sklearn.model_selection import train_test_split

    hashes = content_hashes(images.images)
    first_row: dict[str, int] = {}
    for row, digest in enumerate(hashes):
        first_row.setdefault(digest, row)
    unique = list(first_row.values())
    labels = images.class_index[unique].tolist()
    wanted = max(3, round(1 / min(validation_fraction, test_fraction)))
    for name in sorted(set(labels)):
        if labels.count(name) < 3:
            raise DataError(
                f"data: class {name} has {labels.count(name)} distinct images, wanted at least 3 (about {wanted}) "
                "to fill train, validation and test"
            )
    try:
        rest, test = train_test_split(unique, test_size=test_fraction, stratify=labels, random_state=seed % 2**32)
        train, validation = train_test_split(
            rest,
            test_size=validation_fraction / (1 - test_fraction),
            stratify=images.class_index[rest].tolist(),
            random_state=seed % 2**32,
        )
    except ValueError as error:
        raise DataError(f"data.validation_fraction, data.test_fraction: cannot split {len(unique)} images: {error}") from error
    part_of = {hashes[row]: name for name, rows in zip(SPLITS, (train, validation, test), strict=True) for row in rows}
    members: dict[str, list[int]] = {name: [] for name in SPLITS}
    for row, digest in enumerate(hashes):
        members[part_of[digest]].append(row)
    return {name: torch.tensor(rows, dtype=torch.int64) for name, rows in members.items()}


def write_split(directory: Path, images: ImageSet) -> None:
    """Writes one split as ``images.safetensors`` with a manifest of its own, so that a stage can depend on it alone."""
    files.write_tensors(
        directory / "images.safetensors", {"images": images.images, "class_index": images.class_index}
    )
    files.write_manifest(directory, "split", images=len(images.images))


def read_split(directory: Path) -> ImageSet:
    """The images of one split written by :func:`write_split`."""
    files.read_manifest(directory, "split")
    tensors = files.read_tensors(directory / "images.safetensors")
    return ImageSet(tensors["images"], tensors["class_index"])


def write_classes(path: Path, rows: list[ClassRow]) -> None:
    """Writes the class table."""
    files.write_json(path, [row.__dict__ for row in rows])


def read_classes(path: Path) -> list[ClassRow]:
    """The class table, in the order of ``class_index``."""
    try:
        rows = [ClassRow(**row) for row in files.read_json(path)]
    except TypeError as error:
        raise ArtifactError(f"{path}: not a class table ({error})") from error
    if [row.class_index for row in rows] != list(range(len(rows))):
        raise ArtifactError(f"{path}: class_index found {[row.class_index for row in rows]}, wanted 0, 1, 2, ...")
    return rows


def channel_statistics(images: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of float images in [0, 1] (N, C, H, W), for normalisation."""
    pixels = images.double().transpose(0, 1).flatten(1)
    return pixels.mean(1).tolist(), pixels.std(1, correction=0).clamp_min(1e-6).tolist()


def smallest_class(images: ImageSet, rows: torch.Tensor, names: list[str]) -> tuple[str, int]:
    """Name and size of the class with the fewest images among ``rows``."""
    counts = torch.bincount(images.class_index[rows], minlength=len(names))
    return names[int(counts.argmin())], int(counts.min())
