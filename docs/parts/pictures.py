"""The pictures of the documentation: the first one, the pipeline, the badges."""

from __future__ import annotations

import io
import tomllib
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from parts.common import ROOT

SHEET = 5  # images per class and method in metrics/plots/samples.png
LABELS, PANEL = 112, 864  # in metrics/plots/accuracy.png: where names of rows end, where the second panel begins
INK, MUTED, LINE, FILL, BAND = "#1f2430", "#5c667a", "#2360c5", "#ffffff", "#eef2f9"


def front() -> bytes:
    """One image of every class and method beside the accuracy at the same IPC: a PNG, made of two of the report."""
    tiles, labels, panel = _pieces()
    picture = Image.new("RGB", (tiles.width + 24 + panel.width, panel.height), "white")
    picture.paste(labels, (0, 0))
    picture.paste(tiles, (0, 0))
    picture.paste(panel, (tiles.width + 24, 0))
    return _png(picture.quantize(128, dither=Image.Dither.NONE))


def front_narrow() -> bytes:
    """The same, one above the other, for small screens."""
    tiles, labels, panel = _pieces()
    picture = Image.new("RGB", (labels.width + panel.width, 2 * panel.height - 80), "white")
    picture.paste(tiles, (0, -40))
    picture.paste(labels, (0, panel.height - 80))
    picture.paste(panel, (labels.width, panel.height - 80))
    return _png(picture.quantize(128, dither=Image.Dither.NONE))


def _pieces() -> tuple[Image.Image, Image.Image, Image.Image]:
    """The names of the rows with their images, the names alone, and the accuracies, all of one height."""
    plot, sheet = (Image.open(ROOT / f"metrics/plots/{name}.png").convert("RGB") for name in ("accuracy", "samples"))
    labels = plot.crop((0, 0, LABELS, plot.height))
    middles = [(top + bottom) // 2 for top, bottom in _runs((np.asarray(labels).min(2) < 100).any(1))]
    dark = np.asarray(sheet.convert("L")) < 60
    down, across = _runs(dark.sum(1) > 200), _runs(dark.sum(0) > 60)[1:]
    blocks = len(across) // SHEET
    classes = len(down) // -(-len(middles) // blocks)
    pitch = min(after - before for before, after in pairwise(middles))
    tiles = Image.new("RGB", (LABELS + classes * pitch, plot.height), "white")
    tiles.paste(labels, (0, 0))
    for method, middle in enumerate(middles):
        left, right = across[method % blocks * SHEET]
        for row in range(classes):
            top, bottom = down[method // blocks * classes + row]
            tile = sheet.crop((left, top, right, bottom)).resize((pitch - 6, pitch - 6), Image.Resampling.NEAREST)
            tiles.paste(tile, (LABELS + row * pitch + 8, middle - (pitch - 6) // 2))
    return tiles, labels, plot.crop((PANEL, 0, plot.width, plot.height))


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Where a row of true values begins and where it has ended."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


class Box(NamedTuple):
    """A stage in the figure: its band, its place in it, and what it makes in a few words."""

    band: int
    place: int
    makes: str


BANDS = ("a generator that knows the real images", "candidates, and the images that are kept", "what they are worth")
STAGES = {
    "prepare": Box(0, 0, "splits, class table"), "generator": Box(0, 1, "VAE and DiT"),
    "latents": Box(0, 2, "VAE posteriors"), "finetune": Box(0, 3, "IM, Eq. 1-7"), "guides": Box(0, 4, "modes, moments"),
    "candidates": Box(1, 0, "images, seeds"), "features": Box(1, 1, "unit-norm features"),
    "centroids": Box(1, 2, "Eq. 8"), "select": Box(1, 3, "S3, Eq. 9-11"), "refine": Box(1, 4, "DM, IDC, CaO2"),
    "encoder": Box(2, 0, "frozen features"), "teacher": Box(2, 1, "soft labels"), 
    "labels": Box(2, 2, "one per protocol"),
    "students": Box(2, 3, "every draw and seed"), "report": Box(2, 4, "tables, plots, page"),
    "diagnose": Box(3, 1, "Eq. 12"), "coverage": Box(3, 2, "recall, density"),
    "full_data": Box(3, 3, "the upper bound"),
}  # fmt: skip
ARROWS = [
    ("prepare", "generator"), ("generator", "latents"), ("latents", "finetune"), ("finetune", "guides"),
    ("guides", "candidates"), ("candidates", "features"), ("features", "centroids"), ("centroids", "select"),
    ("select", "refine"), ("refine", "students"), ("encoder", "teacher"), ("teacher", "labels"), ("labels", "students"),
    ("students", "report"), ("full_data", "report"),
]  # fmt: skip
WIDE, HIGH = 150, 46  # of a box


def pipeline() -> bytes:
    """The stages of dvc.yaml in three bands, with the arrows of the main line."""
    parts = []
    for number, text in enumerate(BANDS):
        height = 102 if number < 2 else 162
        parts.append(f'<rect x="6" y="{10 + number * 116}" width="938" height="{height}" rx="10" fill="{BAND}"/>')
        parts.append(_text(930, 31 + number * 116, text, 14, MUTED, "end"))
    corners = {name: _corner(box) for name, box in STAGES.items()}
    arrows = []
    for one, other in ARROWS:
        (x, y), (u, v) = corners[one], corners[other]
        if y == v:
            arrows.append(f"M{x + WIDE} {y + HIGH // 2}H{u - 3}")
        elif y > v:
            arrows.append(f"M{x + WIDE} {y + HIGH // 2}H{u + WIDE // 2}V{v + HIGH + 3}")
        else:
            arrows.append(f"M{x + WIDE // 2} {y + HIGH}V{y + HIGH + 6}H{u + WIDE // 2}V{v - 3}")
    return _drawing(950, 428, [*parts, *_boxes(corners), *map(_arrow, arrows)])


def pipeline_narrow() -> bytes:
    """The same from top to bottom, for small screens."""
    main = [name for name, box in STAGES.items() if box.band < 3]
    line = {name: n for n, name in enumerate(main)}
    row = line | {name: line[main[10 + STAGES[name].place]] for name in STAGES if name not in line}
    corners = {
        name: (200 if box.band == 3 else 26, 42 + 62 * row[name] + 40 * min(box.band, 2))
        for name, box in STAGES.items()
    }
    parts = []
    for number, text in enumerate(BANDS):
        y = 6 + number * 350
        parts.append(f'<rect x="4" y="{y}" width="362" height="342" rx="10" fill="{BAND}"/>')
        parts.append(_text(356, y + 22, text, 13, MUTED, "end"))
    arrows = []
    for one, other in ARROWS:
        (x, y), (u, v) = corners[one], corners[other]
        if x > u:
            arrows.append(f"M{x + WIDE // 2} {y + HIGH}V{v + HIGH // 2}H{u + WIDE + 3}")
        elif v - y > 120:
            arrows.append(f"M{x} {y + HIGH // 2}H14V{v + HIGH // 2}H{u - 3}")
        else:
            arrows.append(f"M{x + WIDE // 2} {y + HIGH}V{v - 3}")
    return _drawing(370, 1056, [*parts, *_boxes(corners), *map(_arrow, arrows)])


def _corner(box: Box) -> tuple[int, int]:
    return 20 + box.place * 184, 44 + min(box.band, 2) * 116 + (60 if box.band == 3 else 0)


def _drawing(width: int, height: int, parts: list[str]) -> bytes:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui,Segoe UI,Helvetica,Arial,sans-serif" aria-label="The stages of the pipeline">'
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs><rect width="{width}" height="{height}" fill="#fff"/>'
    )
    return f"{head}{''.join(parts)}</svg>\n".encode()


def _boxes(corners: dict[str, tuple[int, int]]) -> list[str]:
    parts = []
    for stage, (x, y) in corners.items():
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="7" fill="{FILL}" stroke="{LINE}"/>')
        parts.append(_text(x + WIDE // 2, y + 20, stage, 15, INK, weight="600"))
        parts.append(_text(x + WIDE // 2, y + 37, STAGES[stage].makes, 12, MUTED))
    return parts


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#end)"/>'


def _text(x: int, y: int, text: str, size: int, colour: str, anchor: str = "middle", weight: str = "400") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{text}</text>"
    )


def _project() -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def python_badge() -> bytes:
    """The versions of Python, as pyproject.toml has them."""
    return _badge("Python", _project()["requires-python"].replace(">=", "&#8805; "))


def licence_badge() -> bytes:
    """The licence, as pyproject.toml has it."""
    return _badge("licence", _project()["license"])


def tests_badge() -> bytes:
    """How the tests are run."""
    return _badge("tests", "make test")


def _badge(name: str, text: str) -> bytes:
    left, right = 7 * len(name) + 14, 7 * len(text.replace("&#8805;", ">")) + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{name}: {text}" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" fill="#ffffff">'
        f'<rect width="{left + right}" height="20" rx="3" fill="{LINE}"/>'
        f'<path d="M3 0H{left}V20H3A3 3 0 0 1 0 17V3A3 3 0 0 1 3 0z" fill="#4a5160"/>'
        f'<text x="{left / 2}" y="14" text-anchor="middle">{name}</text>'
        f'<text x="{left + right / 2}" y="14" text-anchor="middle">{text}</text></svg>\n'
    ).encode()
