"""From a source's listing to ``data/real``: decode everything once, split, and write pixels or an index."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from ims3core import files
from ims3core.data import INDEX, LABELS, LOCATION, PIXELS
from ims3core.data.decode import CHUNK, Decoded, decode_all
from ims3core.data.sources import Listing
from ims3core.errors import DataError

log = logging.getLogger(__name__)
NAMED = 50


def decode_listing(
    listing: Listing,
    pixels: Path | None,
    *,
    side: int,
    channels: int,
    workers: int,
    skip_unreadable: bool,
    progress: Callable[[Iterable[Decoded]], Iterator[Decoded]] = iter,
) -> tuple[list[str], np.ndarray]:
    """Decodes every image, into the array file ``pixels`` if given; returns digests and the rows that are readable.

    Raises:
        DataError: naming every unreadable file, unless ``skip_unreadable``; beyond 50 of them the message
            points to a list beside ``pixels``.
    """
    count = len(listing.items)
    store = None
    if pixels is not None:
        pixels.parent.mkdir(parents=True, exist_ok=True)
        store = np.lib.format.open_memmap(pixels, "w+", np.uint8, (count, channels, side, side))
    digests: list[str] = []
    problems: list[str] = []
    readable = np.ones(count, bool)
    for chunk in progress(decode_all(listing.items, side=side, channels=channels, workers=workers)):
        first = len(digests)
        if store is not None:
            store[first : first + len(chunk.pixels)] = chunk.pixels
            if first // CHUNK % 64 == 63:  # written pages leave memory, which so stays the same for any count
                store.flush()
        for offset, problem in enumerate(chunk.problems):
            if problem is not None:
                readable[first + offset] = False
                problems.append(f"{listing.origins[first + offset]} ({problem})")
        digests += chunk.digests
    if store is not None:
        store.flush()
    if problems and not skip_unreadable:
        listed = "; ".join(problems[:NAMED])
        if len(problems) > NAMED:
            path = Path("scratch") / "unreadable.txt"
            files.write_bytes(path, "\n".join(problems).encode())
            listed += f"; and {len(problems) - NAMED} more, all listed in {path}"
        raise DataError(
            f"{len(problems)} of {count} images cannot be read (data.skip_unreadable would leave them out): {listed}"
        )
    for problem in problems:
        log.warning("left out: %s", problem)
    return digests, np.flatnonzero(readable)


def write_pixels(directory: Path, source: Path, rows: np.ndarray, labels: np.ndarray) -> None:
    """Writes one split whose pixels come from the array file ``source``, a few rows at a time."""
    store = np.load(source, mmap_mode="r")
    directory.mkdir(parents=True, exist_ok=True)
    out = np.lib.format.open_memmap(directory / PIXELS, "w+", np.uint8, (len(rows), *store.shape[1:]))
    for first in range(0, len(rows), 64 * CHUNK):
        out[first : first + 64 * CHUNK] = store[rows[first : first + 64 * CHUNK]]
        out.flush()
    _finish(directory, rows, labels, storage="pixels", channels=store.shape[1], side=store.shape[2])


def write_index(
    directory: Path, listing: Listing, digests: list[str], rows: np.ndarray, labels: np.ndarray, *, channels: int, side: int
) -> None:
    """Writes one split as a list of files that stay where they are, with the digests of their pixels."""
    if listing.folder is None:
        raise DataError("data.storage: 'index' wants images in files (data.source imagefolder); allowed here: pixels")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class_index", "file", "sha256"))
    writer.writerows((int(labels[row]), listing.origins[row], digests[row]) for row in rows.tolist())
    files.write_bytes(directory / INDEX, text.getvalue().encode())
    files.write_json(directory.parent / LOCATION, {"folder": str(listing.folder)})
    _finish(directory, rows, labels, storage="index", channels=channels, side=side)


def _finish(directory: Path, rows: np.ndarray, labels: np.ndarray, **facts: str | int) -> None:
    files.write_tensors(directory / LABELS, {"class_index": torch.from_numpy(labels[rows].astype(np.int64))})
    files.write_manifest(directory, "split", images=len(rows), **facts)
