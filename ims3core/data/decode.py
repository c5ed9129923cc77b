"""Decodes stored images of any kind to uint8 pixels of one size, without torch, so that workers start quickly."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ims3core.base.formats import disguised_as, format_of
from ims3core.base.library_errors import reason

Stored = Path | bytes | np.ndarray | None
"""A file, the bytes of a file, uint8 / uint16 pixels (H, W) or (H, W, C), or None where there is no image."""

StoredImages = Sequence[Stored] | np.ndarray
"""Several of them; an array (N, H, W) or (N, H, W, C) holds pixels."""

CHUNK = 128
ORIENTATION = 0x0112  # the EXIF tag
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Decoded:
    """Images of one chunk; a broken image is zero and has a ``problem``.

    Attributes:
        pixels: uint8 (N, channels, side, side).
        sums: int64 (N, channels, 2), the sum of each channel's values and of their squares.
        digests: one per image.
        problems: why an image could not be read, or None.
        peaks: uint8 (N,), the largest value of each.
    """

    pixels: np.ndarray
    sums: np.ndarray
    digests: list[str]
    problems: list[str | None]
    peaks: np.ndarray


def decode(stored: Stored, *, side: int, channels: int) -> np.ndarray:
    """The image as uint8 (channels, side, side): short side resized to ``side`` (bicubic, antialiased), centre crop.

    Turned as its EXIF tag says; 16-bit values are divided by 256; palettes, transparency and CMYK
    become RGB (transparency is dropped, as torchvision's ImageFolder does).

    Raises:
        ValueError: pixels of a type whose range is not known.
        Exception: whatever the library raises on what is not an image.
    """
    from PIL import Image, ImageOps

    if isinstance(stored, np.ndarray):
        array = stored[..., 0] if stored.ndim == 3 and stored.shape[-1] == 1 else stored
        if array.dtype == np.uint16:
            array = (array >> 8).astype(np.uint8)
        if array.dtype != np.uint8:
            raise ValueError(f"pixels of type {array.dtype}, wanted uint8 or uint16")
        picture = Image.fromarray(array)
    else:
        picture = opened(stored if isinstance(stored, bytes | None) else stored.read_bytes())
        bits = getattr(picture, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample of a TIFF
        if picture.mode == "F" or (picture.mode == "I" and bits > 16):
            raise ValueError(f"32-bit {'floats' if picture.mode == 'F' else 'integers'}, wanted 8 or 16 bits a channel")
        picture.load()  # some formats have the tag at their end
        if picture.getexif().get(ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scale
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode != MODES[channels]:  # else convert() would copy
        picture = picture.convert(MODES[channels])
    if picture.size != (side, side):
        width, height = picture.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + short, top + short))
    array = np.asarray(picture)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def opened(stored: Path | bytes | None) -> Any:
    """A stored picture whose header is read.

    Raises:
        Exception: whatever the library raises on what is not an image.
    """
    from PIL import Image

    if stored is None:
        raise ValueError("no image")
    _plugins()
    return Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: of large pictures, which are read, and of tags and palettes that it mends.

    Around many pictures: filters are those of the whole process, and setting them up costs as much as a small picture.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@functools.cache
def _plugins() -> None:
    """Lets Pillow read HEIC where the package pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def digest(pixels: np.ndarray) -> str:
    """The SHA-256 of an image's shape and pixels; equal images have equal digests."""
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def decode_chunk(items: StoredImages, side: int, channels: int) -> Decoded:
    """Decodes several images; what cannot be read is reported, not raised."""
    pixels = np.zeros((len(items), channels, side, side), np.uint8)
    digests, problems = [], []
    with quiet():
        for row, item in enumerate(items):
            problem = None
            try:
                pixels[row] = decode(item, side=side, channels=channels)
            except Exception as error:  # whatever Pillow raises on what is not an image
                problem = why_unreadable(item, error)
            digests.append(digest(pixels[row]))
            problems.append(problem)
    values = pixels.reshape(len(items), channels, -1)
    squares = np.multiply(values, values, dtype=np.uint16)  # 255 squared fits; int64 would be a fifth of the time
    sums = np.stack([values.sum(-1, dtype=np.int64), squares.sum(-1, dtype=np.int64)], axis=-1)
    return Decoded(pixels, sums, digests, problems, pixels.reshape(len(items), -1).max(1, initial=0))


def why_unreadable(item: Stored, error: Exception) -> str:
    """What an item is instead of a picture, or what Pillow says of it."""
    if item is None:
        return "no image in this row (null)"
    if isinstance(item, Path) and item.is_symlink() and not item.exists():
        return f"a link to {item.readlink()}, which is not there"
    if isinstance(item, bytes) or (isinstance(item, Path) and item.is_file()):
        return disguised_as(item) or format_of(item) or reason(error)
    return reason(error)


def decode_all(items: StoredImages, *, side: int, channels: int, workers: int) -> Iterator[Decoded]:
    """All images in order, in chunks, by ``workers`` processes; memory does not grow with the count."""
    chunks = (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))
    if workers <= 1 or len(items) <= CHUNK or isinstance(items[0], np.ndarray):
        yield from (decode_chunk(chunk, side, channels) for chunk in chunks)
        return
    yield from _in_processes(chunks, side, channels, workers)


def _in_processes(chunks: Iterable[StoredImages], side: int, channels: int, workers: int) -> Iterator[Decoded]:
    """A pool with a bounded number of chunks under way: results are taken in order as new work goes in."""
    from collections import deque
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as executor:
        pending: deque[Future[Decoded]] = deque()
        for chunk in chunks:
            pending.append(executor.submit(decode_chunk, chunk, side, channels))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
