"""The real data: image sets that stages exchange, the class table, and how both are stored.

Torch is loaded by the functions that need it: processes that only decode images start without it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from ims3core.base import files
from ims3core.base.library_errors import reason
from ims3core.base.records import EXACT, Record, stale
from ims3core.base.schema import Count, Fraction, Index, Positive
from ims3core.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "validation", "test")
LABELS, PIXELS, INDEX, LOCATION = "labels.safetensors", "images.npy", "index.csv", "location.json"
STATISTICS = "statistics.json"


class IndexedImages:
    """Images that stay in the files they are in: decoded on demand, each checked against the digest in the index.

    Behaves like the uint8 tensor (N, channels, side, side) it stands for: ``len``, ``shape``, and
    indexing by a number, a slice or a tensor of row numbers, which returns a real tensor.
    """

    def __init__(self, folder: Path, names: list[str], digests: list[str], side: int, channels: int) -> None:
        import torch

        self._folder, self._names, self._digests = folder, names, digests
        self.shape = torch.Size((len(names), channels, side, side))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        import torch

        from ims3core.data.decode import quiet

        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        rows = torch.as_tensor(rows)
        with quiet(), ThreadPoolExecutor() as threads:
            images = list(threads.map(self._read, rows.flatten().tolist()))
        stacked = torch.stack(images) if images else torch.empty(0, *self.shape[1:], dtype=torch.uint8)
        return stacked if rows.ndim else stacked[0]

    def _read(self, row: int) -> torch.Tensor:
        import torch

        from ims3core.data.decode import decode, digest

        path = self._folder / self._names[row]
        try:
            pixels = decode(path, side=self.shape[-1], channels=self.shape[1])
        except Exception as error:  # whatever Pillow raises on what is not an image
            raise DataError(f"{path}: was readable when `ims3 prepare` ran, now: {reason(error)}") from error
        if digest(pixels) != self._digests[row]:
            raise DataError(
                f"{path}: its pixels changed since `ims3 prepare` ran; `dvc repro -f prepare` reads it anew"
            )
        return torch.from_numpy(pixels.copy())


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        images: uint8 (N, channels, side, side), in memory, memory-mapped or decoded on demand.
        class_index: int64 (N,), 0 .. classes - 1, our numbering.
        names: their files, relative to the folder of the source; None where images are no files.
    """

    images: torch.Tensor | IndexedImages
    class_index: torch.Tensor
    names: list[str] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.class_index):
            raise DataError(f"found {len(self.images)} images and {len(self.class_index)} class labels, wanted as many")


def batches(images: torch.Tensor | IndexedImages, size: int) -> Iterator[torch.Tensor]:
    """The images in order, ``size`` at a time."""
    for first in range(0, len(images), size):
        yield images[first : first + size]


def unit(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [0, 1]."""
    return images.float() / 255


def signed(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [-1, 1], the range of the VAE."""
    return images.float() / 127.5 - 1


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """uint8 images (N, C, S, S) at another size, bicubic and antialiased; themselves where the size is right."""
    if images.shape[-1] == side:
        return images
    import torch
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    parts = [resize(part, [side, side], InterpolationMode.BICUBIC, antialias=True) for part in images.split(256)]
    return torch.cat(parts)


@dataclass(frozen=True)
class ClassRow:
    """One class: our index, its folder (a WordNet id for ImageNet), what people call it, and its generator label.

    The three numbers and names are never mixed: a 10-class subset of ImageNet has ``class_index``
    0..9 but ``generator_label`` up to 999 (the trap D8 of the public code).
    """

    class_index: int
    name: str
    generator_label: int
    human_name: str = ""
    __pydantic_config__: ClassVar[ConfigDict] = EXACT


class SplitFacts(Record):
    """What the manifest of a split says of its images."""

    images: Index
    storage: Literal["pixels", "index"]
    channels: Count
    side: Count


class Location(Record):
    """The folder of images that stay where they are."""

    folder: str


class Statistics(Record):
    """Mean and standard deviation of every channel, of images in [0, 1]."""

    mean: Annotated[list[Fraction], Field(min_length=1)]
    std: list[Positive]

    @model_validator(mode="after")
    def _fit(self) -> Statistics:
        if len(self.mean) != len(self.std):
            raise ValueError(f"found {len(self.mean)} means and {len(self.std)} deviations, wanted as many")
        return self


def write_classes(path: Path, rows: list[ClassRow]) -> None:
    """Writes the class table."""
    files.write_json(path, [asdict(row) for row in rows])


def read_classes(path: Path) -> list[ClassRow]:
    """The class table, in the order of ``class_index``."""
    rows: list[ClassRow] = files.read_json(files.checked(path), list[ClassRow])
    for wanted, row in enumerate(rows):
        if row.class_index != wanted:
            raise stale(path, f"{wanted}.class_index: found {row.class_index}, wanted {wanted}")
    return rows


def generator_labels(path: Path, classes: int) -> torch.Tensor:
    """The generator label of every class in the table ``path``, int64 (C,), checked against the generator's range.

    Raises:
        ArtifactError: naming the first class whose label is beyond the ``classes`` classes of the generator.
    """
    import torch

    rows = read_classes(path)
    for row in rows:
        if not 0 <= row.generator_label < classes:
            raise ArtifactError(
                f"{path}: class {row.name} has generator_label {row.generator_label}, "
                f"the generator knows 0..{classes - 1}"
            )
    return torch.tensor([row.generator_label for row in rows])


def read_split(directory: Path) -> ImageSet:
    """The images of one split of ``data/real``: memory-mapped pixels, or an index of files that stay where they are."""
    import numpy as np
    import torch

    facts: SplitFacts = files.read_manifest(directory, "split", SplitFacts)
    class_index = files.read_tensors(directory / LABELS)["class_index"]
    if len(class_index) != facts.images:
        raise stale(directory / files.MANIFEST, f"facts.images: found {facts.images}, {LABELS} has {len(class_index)}")
    rows: list[list[str]] = []
    if (directory / INDEX).is_file():
        with (directory / INDEX).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
    names = [row[1] for row in rows] or None
    if facts.storage == "pixels":
        # Copy-on-write: a tensor that could be written to, whose file cannot.
        return ImageSet(torch.from_numpy(np.load(directory / PIXELS, mmap_mode="c")), class_index, names)
    folder = Path(files.read_json(files.checked(directory.parent / LOCATION), Location).folder)
    images = IndexedImages(folder, names or [], [row[2] for row in rows], facts.side, facts.channels)
    return ImageSet(images, class_index, names)


def read_statistics(path: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the training images in [0, 1], for normalisation."""
    values: Statistics = files.read_json(files.checked(path), Statistics)
    return values.mean, values.std
