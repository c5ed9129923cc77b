"""Pictures as the page embeds them: charts in few colours, and photographs that are small enough together."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ims3core.report.figures import montage

PIXELS = 6_000_000  # of all photographs of a page together; larger ones are scaled down
LOSSLESS_PIXELS = 1_000_000  # up to so many, photographs are kept as they are
DISPLAYED = 32  # CSS pixels that small photographs are enlarged to


@dataclass(frozen=True)
class Picture:
    """An image file in memory, and its size on the page in CSS pixels."""

    content: bytes
    kind: str
    width: int
    height: int
    enlarged: bool = False

    @property
    def uri(self) -> str:
        """As the address of an ``img``."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


def chart(png: bytes) -> bytes:
    """A PNG with its colours reduced to 256, at a third of the size."""
    with Image.open(io.BytesIO(png)) as image:
        return _saved(image.convert("RGB").quantize(256, dither=Image.Dither.NONE), "PNG", optimize=True)


def opened(png: bytes) -> Picture:
    """The PNG of a chart as a picture."""
    with Image.open(io.BytesIO(png)) as image:
        return Picture(png, "png", *image.size)


@dataclass(frozen=True)
class Photographs:
    """How the photographs of a page are stored: ``side`` is their height in pixels."""

    side: int
    lossless: bool

    @classmethod
    def for_page(cls, count: int, side: int) -> Photographs:
        """For ``count`` photographs of ``side`` pixels."""
        side = min(side, math.isqrt(PIXELS // count))
        return cls(side, count * side**2 <= LOSSLESS_PIXELS)

    def sheet(self, stack: np.ndarray) -> Picture:
        """Images (rows, columns, H, W, 3), uint8, side by side with transparent gaps."""
        rows, columns, height, width, _ = stack.shape
        size = (max(1, round(self.side * width / height)), self.side)
        images = (Image.fromarray(image) for row in stack for image in row)
        scaled = np.stack([np.array(image.convert("RGBA").resize(size)) for image in images])
        tiles = scaled.reshape(rows, columns, *scaled.shape[1:])
        sheet = Image.fromarray(montage(tiles, background=(0, 0, 0, 0)))
        zoom = max(1, round(DISPLAYED / self.side))
        content = _saved(sheet, "WEBP", lossless=self.lossless, quality=100 if self.lossless else 80)
        return Picture(content, "webp", zoom * sheet.width, zoom * sheet.height, enlarged=zoom > 1)


def _saved(image: Image.Image, kind: str, **options: bool | int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
