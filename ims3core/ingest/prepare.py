"""Decodes the images of a listing once and writes splits of ``data/real``, as pixels or as an index."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ims3core.base import files
from ims3core.data import INDEX, LABELS, LOCATION, PIXELS
from ims3core.data.decode import CHUNK, Decoded, decode_all
from ims3core.errors import DataError, some
from ims3core.ingest.listing import Listing

log = logging.getLogger(__name__)
NAMED = 4  # unreadable images that a message names
DARK = 16  # of 256: images of 12 bits in 16 end below


def decode_listing(
    listing: Listing, pixels: Path | None, *, side: int, channels: int, workers: int, skip_unreadable: bool,
    progress: Callable[[Iterable[Decoded]], Iterator[Decoded]] = iter,
) -> tuple[list[str], np.ndarray, np.ndarray]:  # fmt: skip
    """Digests of all images, the rows that are readable, and int64 (N, channels, 2) sums of values and squares.

    The pixels go to the array file ``pixels`` if there is to be one.

    Raises:
        DataError: unless ``skip_unreadable``, naming some unreadable files and the list of all,
            scratch/unreadable.txt.
    """
    count = len(listing.items)
    digests: list[str] = []
    problems: dict[int, str] = {}
    sums = np.zeros((count, channels, 2), np.int64)
    peaks = np.zeros(count, np.uint8)
    with contextlib.ExitStack() as stack:
        store = None if pixels is None else stack.enter_context(_array_file(pixels, (count, channels, side, side)))
        for chunk in progress(decode_all(listing.items, side=side, channels=channels, workers=workers)):
            if store is not None:
                store.write(chunk.pixels.data)
            rows = slice(len(digests), len(digests) + len(chunk.digests))
            sums[rows], peaks[rows] = chunk.sums, chunk.peaks
            for row, problem in enumerate(chunk.problems, start=len(digests)):
                if problem is not None:
                    problems[row] = f"{listing.origins[row]} ({problem})"
            digests += chunk.digests
    if problems:
        named, counts = _named(list(problems.values())), f"{len(problems):,} of {count:,}"
        if lost := _lost_classes(listing, problems):
            raise DataError(f"{counts} images cannot be read, all of {lost}, which data.classes can leave out: {named}")
        if not skip_unreadable:
            raise DataError(f"{counts} images cannot be read (data.skip_unreadable would leave them out): {named}")
        log.warning("left out, because they cannot be read: %d of %d images: %s", len(problems), count, named)
    readable = np.array([row for row in range(count) if row not in problems], np.int64)
    _warn_of_dark(listing, readable, peaks)
    return digests, readable, sums


def _warn_of_dark(listing: Listing, readable: np.ndarray, peaks: np.ndarray) -> None:
    """One warning for all classes that are nearly black throughout."""
    brightest = np.zeros(len(listing.names), np.int64)
    np.maximum.at(brightest, listing.labels[readable], peaks[readable])
    present = np.unique(listing.labels[readable])
    if not len(dark := present[brightest[present] < DARK]):
        return
    number = int(np.isin(listing.labels[readable], dark).sum())
    of = "" if len(dark) == len(present) else f" of class {some([listing.names[c] for c in dark])}"
    log.warning(
        "no pixel of %d images%s is brighter than %d of 255: were these values of fewer bits, signed, or fractions?",
        number, of, brightest[dark].max(),
    )  # fmt: skip


def _named(problems: list[str]) -> str:
    """Some of the problems; a file lists the others."""
    if len(problems) <= NAMED:
        return "; ".join(problems)
    path = Path("scratch") / "unreadable.txt"
    files.write_bytes(path, "\n".join(problems).encode(errors="backslashreplace"))
    return f"{'; '.join(problems[:NAMED])}; and {len(problems) - NAMED:,} more, all listed in {path}"


def _lost_classes(listing: Listing, problems: Collection[int]) -> str:
    """The classes without a readable image, which leaving images out does not mend; "" where every class has one."""
    counts = np.bincount(listing.labels, minlength=len(listing.names))
    broken = np.bincount(listing.labels[list(problems)], minlength=len(listing.names))
    return some([listing.names[c] for c in np.flatnonzero((counts > 0) & (counts == broken))], 3)


def canonical_order(rows: np.ndarray, labels: np.ndarray, digests: list[str]) -> np.ndarray:
    """``rows`` by class and digest, so that what follows does not depend on how a source stores and orders images."""
    ordered = rows[np.argsort(labels[rows], kind="stable")]
    groups = np.split(ordered, np.flatnonzero(np.diff(labels[ordered])) + 1)
    return np.concatenate([np.array(sorted(group.tolist(), key=digests.__getitem__), np.int64) for group in groups])


def write_statistics(path: Path, sums: np.ndarray, *, side: int) -> None:
    """Writes mean and standard deviation per channel of the images behind ``sums``, scaled to [0, 1].

    Sums of integers are exact, so the result depends on neither order nor chunks.
    """
    mean, square = (sums.sum(0) / (len(sums) * side**2)).T
    std = np.sqrt(np.maximum(square - mean**2, 0))
    files.write_json(path, {"mean": (mean / 255).tolist(), "std": np.maximum(std / 255, 1e-6).tolist()})


def write_origins(directory: Path, listing: Listing, digests: list[str], rows: np.ndarray, labels: np.ndarray) -> None:
    """Writes which file every image of a split is, and the digest of its pixels, in the order of the split."""
    lines = ((int(labels[row]), listing.origins[row], digests[row]) for row in rows.tolist())
    files.write_csv(directory / INDEX, ("class_index", "file", "sha256"), lines)


def write_pixels(directory: Path, source: Path, rows: np.ndarray, labels: np.ndarray) -> None:
    """Writes one split whose pixels come from the array file ``source``, a few rows at a time."""
    shape = np.load(source, mmap_mode="r").shape[1:]
    with _array_file(directory / PIXELS, (len(rows), *shape)) as out:
        for first in range(0, len(rows), CHUNK):
            # Mapped anew for every chunk: pages that were read leave memory.
            out.write(np.load(source, mmap_mode="r")[rows[first : first + CHUNK]].tobytes())
    _finish(directory, rows, labels, storage="pixels", channels=shape[0], side=shape[1])


def write_index(
    directory: Path, listing: Listing, digests: list[str], rows: np.ndarray, labels: np.ndarray, *, channels: int,
    side: int,
) -> None:  # fmt: skip
    """Writes one split as a list of files that stay where they are, with the digests of their pixels."""
    if listing.folder is None:
        raise DataError("data.storage: 'index' wants images in files (data.source imagefolder); allowed here: pixels")
    write_origins(directory, listing, digests, rows, labels)
    files.write_json(directory.parent / LOCATION, {"folder": str(listing.folder)})
    _finish(directory, rows, labels, storage="index", channels=channels, side=side)


def _array_file(path: Path, shape: tuple[int, ...]) -> BinaryIO:
    """A uint8 array file in numpy's format, open for its values in order: memory does not grow with its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("wb")
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream


def _finish(directory: Path, rows: np.ndarray, labels: np.ndarray, **facts: str | int) -> None:
    files.write_tensors(directory / LABELS, {"class_index": torch.from_numpy(labels[rows].astype(np.int64))})
    files.write_manifest(directory, "split", images=len(rows), **facts)
