"""What somebody's pictures are, before anything is prepared: source, classes, splits, sizes, colour."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.seeds import derive_seed
from ims3core.data import SPLITS
from ims3core.data.decode import Stored, decode, opened, quiet, why_unreadable
from ims3core.errors import DataError, some
from ims3core.ingest import agreement, classes, folders, readers, splits, tables
from ims3core.ingest.listing import Listing
from ims3core.params.sections import Data
from ims3core.planning.sizes import DatasetSize

OPENED = 20_000  # pictures whose header is read; of more, as many spread evenly
DECODED = 64  # pictures that are decoded, for colour and time
SAVED = ("state.json", "dataset_dict.json")  # files of ``save_to_disk``
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


def look(path: str, data: Data, seed: int, source: str | None = None) -> Folder:
    """The pictures in a folder of class folders, a folder or file of parquet, or an npz archive.

    Args:
        data: the section of the profile, less where the pictures are.
        seed: the root seed, as `prepare` divides by it.
        source: ``data.source`` where it is given; None: by what lies there.

    Raises:
        DataError: nothing there that a reader knows, fewer than two classes, or a class too small to fill every split.
    """
    section = source_of(path, source)
    data = data.model_copy(update=section if source else {"name": None, **section})
    listing = readers.read(data, classes.listed(data.classes))
    listing.names = classes.with_wordnet_ids(listing.names, data.classes)
    if data.classes is None:
        listing = agreement.without_unused(listing)
    else:
        table = classes.class_table(listing.names, data.classes, trained=True)
        listing = listing.restricted([row.name for row in table])
    where = f"data.path: {path}"
    if len(listing.names) < 2:
        raise DataError(f"{where}: found one class, {listing.names[0]!r}; wanted at least two to tell apart"
                        f"{listing.hint}")  # fmt: skip
    rows = _opened(len(listing.items))
    sizes, broken = _headers(listing, rows)
    if not sizes:
        raise DataError(f"{where}: none of its {len(listing.items)} files can be read as a picture: "
                        f"{_named(listing, broken)}")  # fmt: skip
    keep = np.setdiff1d(np.arange(len(listing.items)), np.fromiter(broken, np.int64, len(broken)))
    try:
        images = _divided(listing, keep, data, seed)
    except DataError as error:
        more = f"; {_no_pictures(listing, broken, len(rows))}" if broken else "; add some, or move its folder away"
        raise DataError(f"{where}: {str(error).removeprefix('data: ')}{more}") from error
    grey, decode_s = _decoded(listing, keep)
    left_out = list(listing.warnings)
    if broken:
        left_out.insert(0, _no_pictures(listing, broken, len(rows)))
    return Folder(section, listing.names, images, int(np.median(sizes)), grey, decode_s, left_out)


def source_of(path: str, source: str | None = None) -> dict[str, Any]:
    """The keys ``source``, unless it is given, and ``path`` of the section ``data`` for what lies at ``path``."""
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"data.path: {path}: no such folder or file")
    if source is not None:
        return {"source": source, "path": path}
    if place.is_dir():
        saved = _saved(place)
        if saved is not None:
            return {"source": "huggingface", "path": str(Path(path) / saved.relative_to(place))}
        return {"source": "huggingface" if _holds_parquet(place) else "imagefolder", "path": path}
    if place.suffix.lower() == ".npz":
        return {"source": "npz", "path": path}
    if place.suffix.lower() == ".parquet":
        beside = sorted(place.parent.glob("*.parquet"))
        if len(beside) > 1:
            raise DataError(f"data.path: {path}: lies beside {len(beside) - 1} more; wanted a folder of its own")
        return {"source": "huggingface", "path": str(Path(path).parent)}
    kind = disguised_as(place) or format_of(place, pictures=True) or "a file"
    if "archive" in kind:
        raise DataError(f"data.path: {path}: {kind}; wanted it unpacked, and the folder of what was in it")
    if place.suffix.lower() in tables.ENDINGS:
        raise DataError(
            f"data.path: {path}: {kind} with the ending of a table; wanted the folder of the pictures, and "
            f"data.table={path} for their labels"
        )
    raise DataError(f"data.path: {path}: {kind}, wanted a folder of class folders, parquet files, or an npz")


def _saved(place: Path) -> Path | None:
    """The folder of ``save_to_disk``: ``place``, or one along single folders below it."""
    for _ in range(folders.DEEPEST):
        if any((place / name).is_file() for name in SAVED):
            return place
        inner = folders.class_folders(place)
        if len(inner) != 1 or folders.loose_pictures(place):
            return None
        place = inner[0]
    return None


def _holds_parquet(place: Path) -> bool:
    """Whether parquet files lie in a folder or deeper, before any picture is met deeper."""
    if any(place.glob("*.parquet")) or any(place.glob("data/*.parquet")):
        return True
    for _, inner, names in os.walk(place):
        inner[:] = sorted(name for name in inner if folders.can_be_class(name))
        if any(folders.is_picture(name) for name in names):
            return False
        if any(name.endswith(".parquet") and name != "metadata.parquet" for name in names):
            return True
    return False


def _opened(count: int) -> np.ndarray:
    """The rows that are looked at."""
    return np.unique(np.linspace(0, count - 1, min(count, OPENED)).astype(np.int64))


def _headers(listing: Listing, rows: np.ndarray) -> tuple[list[int], dict[int, str]]:
    """The short sides of the pictures in ``rows``, and by row why one is none."""
    sizes, broken = [], {}
    with quiet():
        for row in rows.tolist():
            try:
                sizes.append(min(_size(listing.items[row])))
            except Exception as error:  # whatever Pillow raises on what is not an image
                broken[row] = why_unreadable(listing.items[row], error)
    return sizes, broken


def _named(listing: Listing, broken: dict[int, str]) -> str:
    """The first of the files that are no pictures, and why."""
    named = "; ".join(f"{listing.origins[row]} ({broken[row]})" for row in sorted(broken)[:SHOWN])
    return named + (f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")


def _no_pictures(listing: Listing, broken: dict[int, str], count: int) -> str:
    """How many of ``count`` files are no pictures, with those first that leave a class without any."""
    lost = np.bincount(listing.labels[list(broken)], minlength=len(listing.names))
    empty = np.flatnonzero((lost > 0) & (lost == np.bincount(listing.labels, minlength=len(listing.names))))
    of = f", all of class {some([listing.names[c] for c in empty], 3)}" if len(empty) else ""
    first = {row: why for row, why in broken.items() if listing.labels[row] in empty} or broken
    return f"{len(broken)} of {count} files are no pictures{of}: {_named(listing, first)}"


def _size(item: Stored) -> tuple[int, int]:
    """Width and height of a stored picture."""
    if isinstance(item, np.ndarray):
        return item.shape[1], item.shape[0]
    with opened(item) as picture:
        return picture.size


def _decoded(listing: Listing, rows: np.ndarray) -> tuple[bool, float]:
    """Whether some pictures have no colour, and the seconds that each took; broken ones are left to `prepare`."""
    began, grey, seen = time.perf_counter(), True, 0
    with quiet():
        for row in rows[np.linspace(0, len(rows) - 1, min(len(rows), DECODED)).astype(np.int64)].tolist():
            try:
                red, green, blue = decode(listing.items[row], side=32, channels=3)
            except Exception:  # `prepare` names every one of them
                continue
            seen += 1
            grey = grey and bool((red == green).all() and (green == blue).all())
    return grey and seen > 0, (time.perf_counter() - began) / max(1, seen)


def _divided(listing: Listing, rows: np.ndarray, data: Data, seed: int) -> dict[str, np.ndarray]:
    """How many pictures of every class each split will have, all taken for different ones.

    Raises:
        DataError: naming a class that would be missing in a split.
    """
    labels, number = listing.labels[rows], len(listing.names)
    members = splits.assign(
        labels, [str(row) for row in rows], listing.names, brought=_pick(listing.splits, rows),
        seed=derive_seed(seed, "split"), validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
    )  # fmt: skip
    return {name: np.bincount(labels[members[name]], minlength=number) for name in SPLITS}


def _pick(values: list[str], rows: Iterable[int]) -> list[str]:
    return [values[row] for row in rows]
