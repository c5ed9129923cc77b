"""What somebody's pictures are, before anything is prepared: source, classes, splits, sizes, colour."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ims3core.base.seeds import derive_seed
from ims3core.data import SPLITS
from ims3core.data.decode import Stored, decode
from ims3core.errors import DataError
from ims3core.ingest import agreement, classes, readers, splits
from ims3core.ingest.listing import Listing
from ims3core.params.sections import Data
from ims3core.planning.sizes import DatasetSize

OPENED = 20_000  # pictures whose header is read; of more, as many spread evenly
DECODED = 64  # pictures that are decoded, for colour and time
SHOWN = 3  # files left out that are named


@dataclass(frozen=True)
class Folder:
    """A source of pictures as `prepare` will divide it.

    Attributes:
        section: the keys of ``data`` that say where the pictures are.
        names: of the classes.
        images: by split, how many of each class.
        short: median of the short sides, pixels.
        grey: whether no picture has a colour.
        decode_s: seconds that decoding a picture takes, in one process.
        left_out: what is not used and why, a line each.
    """

    section: dict[str, Any]
    names: list[str]
    images: dict[str, np.ndarray]
    short: int
    grey: bool
    decode_s: float
    left_out: list[str]

    @property
    def size(self) -> DatasetSize:
        """The numbers that costs depend on."""
        return DatasetSize(
            len(self.names), **{name: int(count.sum()) for name, count in self.images.items()}, counted=False
        )

    @property
    def smallest(self) -> tuple[str, int]:
        """The class with the fewest pictures to train on, and how many it has."""
        train = self.images["train"]
        return self.names[int(train.argmin())], int(train.min())


def look(path: str, data: Data, seed: int) -> Folder:
    """The pictures in a folder of class folders, a folder or file of parquet, or an npz archive.

    Args:
        data: the section of the profile, less where the pictures are.
        seed: the root seed, as `prepare` divides by it.

    Raises:
        DataError: nothing there that a reader knows, fewer than two classes, or a class too small to fill every split.
    """
    section = source_of(path)
    data = data.model_copy(update={"name": None, **section})
    listing = readers.read(data, classes.listed(data.classes))
    listing.names = classes.with_wordnet_ids(listing.names, data.classes)
    if data.classes is None:
        listing = agreement.without_unused(listing)
    else:
        table = classes.class_table(listing.names, data.classes, trained=True)
        listing = listing.restricted([row.name for row in table])
    where = f"data.path: {path}"
    if len(listing.names) < 2:
        raise DataError(f"{where}: found one class, {listing.names[0]!r}; wanted at least two to tell apart")
    rows = _opened(len(listing.items))
    sizes, broken = _headers(listing, rows)
    if not sizes:
        raise DataError(f"{where}: none of its {len(listing.items)} files can be read as a picture")
    keep = np.setdiff1d(np.arange(len(listing.items)), np.fromiter(broken, np.int64, len(broken)))
    images = _divided(listing, keep, data, seed, where)
    grey, decode_s = _decoded(listing, keep)
    left_out = list(listing.warnings)
    if broken:
        named = "; ".join(f"{listing.origins[row]} ({broken[row]})" for row in sorted(broken)[:SHOWN])
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        left_out.insert(0, f"{len(broken)} of {len(rows)} files are no pictures: {named}{more}")
    return Folder(section, listing.names, images, int(np.median(sizes)), grey, decode_s, left_out)


def source_of(path: str) -> dict[str, Any]:
    """The keys ``source`` and ``path`` of the section ``data`` for what lies at ``path``."""
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"data.path: {path}: no such folder or file")
    if place.is_dir():
        parquet = any(place.glob("*.parquet")) or any(place.glob("data/*.parquet"))
        return {"source": "huggingface" if parquet else "imagefolder", "path": path}
    if place.suffix.lower() == ".npz":
        return {"source": "npz", "path": path}
    if place.suffix.lower() == ".parquet":
        beside = sorted(place.parent.glob("*.parquet"))
        if len(beside) > 1:
            raise DataError(f"data.path: {path}: lies beside {len(beside) - 1} more; wanted a folder of its own")
        return {"source": "huggingface", "path": str(Path(path).parent)}
    raise DataError(f"data.path: {path}: found a file, wanted a folder of class folders, parquet files, or an npz")


def _opened(count: int) -> np.ndarray:
    """The rows that are looked at."""
    return np.unique(np.linspace(0, count - 1, min(count, OPENED)).astype(np.int64))


def _headers(listing: Listing, rows: np.ndarray) -> tuple[list[int], dict[int, str]]:
    """The short sides of the pictures in ``rows``, and by row why one is none."""
    sizes, broken = [], {}
    for row in rows.tolist():
        try:
            sizes.append(min(_size(listing.items[row])))
        except Exception as error:  # whatever Pillow raises on what is not an image
            broken[row] = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)[:80]
    return sizes, broken


def _size(item: Stored) -> tuple[int, int]:
    """Width and height of a stored picture."""
    if item is None:
        raise ValueError("no image")
    if isinstance(item, np.ndarray):
        return item.shape[1], item.shape[0]
    with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as picture:
        return picture.size


def _decoded(listing: Listing, rows: np.ndarray) -> tuple[bool, float]:
    """Whether some pictures have no colour, and the seconds that each took; broken ones are left to `prepare`."""
    began, grey, seen = time.perf_counter(), True, 0
    for row in rows[np.linspace(0, len(rows) - 1, min(len(rows), DECODED)).astype(np.int64)].tolist():
        try:
            red, green, blue = decode(listing.items[row], side=32, channels=3)
        except Exception:  # `prepare` names every one of them
            continue
        seen += 1
        grey = grey and bool((red == green).all() and (green == blue).all())
    return grey and seen > 0, (time.perf_counter() - began) / max(1, seen)


def _divided(listing: Listing, rows: np.ndarray, data: Data, seed: int, where: str) -> dict[str, np.ndarray]:
    """How many pictures of every class each split will have, all taken for different ones.

    Raises:
        DataError: naming a class that would be missing in a split.
    """
    labels, number = listing.labels[rows], len(listing.names)
    try:
        members = splits.assign(
            labels, [str(row) for row in rows], listing.names, brought=_pick(listing.splits, rows),
            seed=derive_seed(seed, "split"), validation_fraction=data.validation_fraction,
            test_fraction=data.test_fraction,
        )  # fmt: skip
    except DataError as error:
        raise DataError(f"{where}: {str(error).removeprefix('data: ')}; add some, or move its folder away") from error
    return {name: np.bincount(labels[members[name]], minlength=number) for name in SPLITS}


def _pick(values: list[str], rows: Iterable[int]) -> list[str]:
    return [values[row] for row in rows]
