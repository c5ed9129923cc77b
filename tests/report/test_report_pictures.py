"""Pictures on the page are small, and show what they were made from."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from ims3core.report import figures, pictures


def pixels(content: bytes, mode: str) -> np.ndarray:
    """The picture in an image file."""
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image.convert(mode)).astype(int)


def test_a_chart_in_few_colours_looks_the_same(monkeypatch):
    """It has the size of the original in fewer bytes, and no pixel is far from its own colour."""
    monkeypatch.setattr(figures, "DPI", 60)
    rows = [("im", step, "loss", 1 / (1 + step)) for step in range(50)]
    png = figures.training(pd.DataFrame(rows, columns=["training", "step", "series", "value"]))

    reduced = pictures.chart(png)

    difference = np.abs(pixels(reduced, "RGB") - pixels(png, "RGB"))
    assert len(reduced) < len(png) / 2
    assert difference.max() < 32 and difference.mean() < 0.1
    assert pictures.opened(reduced).width == pixels(png, "RGB").shape[1]


def test_small_photographs_are_kept_exactly():
    """Every image stands at its row and column, transparent gaps between them; small ones are enlarged by the page."""
    stack = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)

    sheet = pictures.Photographs.for_page(6, 8).sheet(stack)

    picture = pixels(sheet.content, "RGBA")
    for row in range(2):
        for column in range(3):
            image = picture[9 * row : 9 * row + 8, 9 * column : 9 * column + 8]
            assert (image[..., :3] == stack[row, column]).all() and (image[..., 3] == 255).all()
    assert (picture[8, :, 3] == 0).all() and (picture[:, 8, 3] == 0).all()
    assert (sheet.width, sheet.height, sheet.enlarged) == (4 * 26, 4 * 17, True)
    assert base64.b64decode(sheet.uri.removeprefix("data:image/webp;base64,")) == sheet.content


def test_many_large_photographs_share_a_budget():
    """However many there are, their pixels together stay below a limit, and the shape of an image is kept."""
    photographs = pictures.Photographs.for_page(5000, 256)

    assert 5000 * photographs.side**2 <= pictures.PIXELS and not photographs.lossless
    sheet = photographs.sheet(np.zeros((1, 2, 256, 512, 3), np.uint8))
    side = photographs.side
    assert pixels(sheet.content, "RGBA").shape == (side, 2 * 2 * side + max(1, side // 8), 4)
