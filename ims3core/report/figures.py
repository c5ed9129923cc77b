"""The charts of the report, each returned as the bytes of a PNG on white.

Figures are built from ``matplotlib.figure.Figure`` under a style of their own, so neither a user's
matplotlibrc nor pyplot's global state can change a byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from ims3core.errors import visible
from ims3core.report.artifacts import FULL, REAL
from ims3core.report.data import MAX_CLASSES
from ims3core.report.published import label

if TYPE_CHECKING:
    from ims3core.report.answer import Answer

DPI = 160
WIDTH = 10.0  # inches
LONGEST_NAME = 24  # characters of a class name in a figure
CURVE_WIDTH = 6.4  # inches
MOST_ACROSS = 8  # methods in one line of the sample grid
CHARACTERS = 9  # of a title, on an inch
MAX_POINT_IPCS = 3  # beyond, lines over IPC read better than one panel per IPC
SURFACE, INK, MUTED, GRID, ACCENT = "#ffffff", "#1d2430", "#667085", "#e4e7ec", "#2563c9"
CATEGORIES = (
    "#2563c9", "#d1495b", "#2e8b57", "#b7791f", "#7a5bc0", "#0f8b8d", "#b5527f", "#6b7f2a", "#8a5a3c", "#5b6778",
)  # fmt: skip
DASHES = ("-", "--", ":")  # of lines beyond the colours


@contextmanager
def canvas(*, height: float, width: float = WIDTH) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure in the report's style; on leaving it is written as PNG without date or version."""
    style = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    style |= {
        "font.size": 9.5,
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "text.color": INK,
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.facecolor": SURFACE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": INK,
        "grid.color": GRID,
        "legend.frameon": False,
        "figure.facecolor": SURFACE,
        "savefig.facecolor": SURFACE,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.09,
        "figure.constrained_layout.h_pad": 0.09,
    }
    with matplotlib.rc_context(style):
        figure, target = Figure(figsize=(width, height), dpi=DPI), io.BytesIO()
        yield figure, target
        figure.savefig(target, format="png", metadata={"Software": None})


def accuracy(runs: pd.DataFrame, summary: pd.DataFrame) -> bytes:
    """Accuracy of every method: one panel per student, protocol and IPC, or lines over IPC where there are many."""
    if summary["protocol"].nunique() > 1:  # a student under each protocol is one more row of panels
        runs, summary = (
            frame.assign(student=frame["student"] + ", " + frame["protocol"], protocol="") for frame in (runs, summary)
        )
    ipcs = [ipc for ipc in summary["ipc"].unique() if ipc != FULL]
    students = list(summary["student"].unique())
    if len(ipcs) > MAX_POINT_IPCS:
        return _accuracy_lines(summary, students=students)
    methods = [method for method in summary["method"].unique() if method != FULL]
    with canvas(height=len(students) * (1.0 + 0.34 * len(methods))) as (figure, target):
        panels = figure.subplots(len(students), len(ipcs), squeeze=False, sharey=True)
        for axes, (student, ipc) in zip(panels.flat, [(s, i) for s in students for i in ipcs], strict=True):
            cell = runs[(runs["student"] == student) & (runs["ipc"] == ipc)]
            values = {method: cell.loc[cell["method"] == method, "last_top1"].to_numpy() for method in methods}
            _dots(axes, values)
            full = summary[(summary["student"] == student) & (summary["method"] == FULL)]
            for mean in full["mean"]:
                axes.axvline(mean, color=MUTED, lw=1, ls=(0, (4, 3)))
                axes.annotate(
                    "full data", (mean, 1), xycoords=("data", "axes fraction"), xytext=(-4, 2),
                    textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=8,
                )  # fmt: skip
            axes.set_title(f"IPC {ipc}" if len(students) == 1 else f"{student}, IPC {ipc}")
            axes.set_xlabel("top-1 accuracy of the last epoch (%)")
    return target.getvalue()


def _accuracy_lines(summary: pd.DataFrame, *, students: Sequence[str]) -> bytes:
    across = min(3, len(students))
    down = -(-len(students) // across)
    with canvas(height=max(4.2 * down, 0.4 + 0.24 * (1 + summary["method"].nunique()))) as (figure, target):
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        panels = list(grid.flat)
        for axes in panels[len(students) :]:
            axes.set_visible(False)
        for axes, student in zip(panels, students, strict=False):
            lines = summary[(summary["student"] == student) & (summary["method"] != FULL)]
            for number, (method, rows) in enumerate(lines.groupby("method", sort=False)):
                colour, dash = CATEGORIES[number % len(CATEGORIES)], DASHES[number // len(CATEGORIES) % len(DASHES)]
                x, spread = rows["ipc"].astype(int), rows["std"].fillna(0)
                axes.errorbar(
                    x, rows["mean"], spread, color=colour, ls=dash, marker="o", ms=4, lw=1.6, label=label(method)
                )
            for mean in summary.loc[(summary["student"] == student) & (summary["method"] == FULL), "mean"]:
                axes.axhline(mean, color=MUTED, lw=1, ls=(0, (4, 3)), label=label(FULL))
            axes.set_xscale("log")
            axes.set_xticks(sorted(lines["ipc"].astype(int).unique()), labels=sorted(lines["ipc"].unique(), key=int))
            axes.minorticks_off()
            axes.grid(axis="y")
            axes.set_title(student)
            axes.set_xlabel("images per class")
        for axes in grid[:, 0]:
            axes.set_ylabel("top-1 accuracy of the last epoch (%)")
        if summary["method"].nunique() <= len(CATEGORIES):
            panels[len(students) - 1].legend(loc="lower right")
        else:  # beside the panels: as many lines would hide them
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return target.getvalue()


def curve(answer: Answer) -> bytes:
    """Accuracy over images per class with 95 % intervals: the best row, random images, and all images as a line."""
    rows = [(answer.points, label(answer.method), ACCENT)]
    rows += [(answer.random, label("random"), MUTED)] if answer.random else []
    with canvas(height=3.6, width=CURVE_WIDTH) as (figure, target):
        axes = figure.subplots()
        for points, name, colour in rows:
            x, means = [point.ipc for point in points], [point.mean for point in points]
            spread = np.nan_to_num([point.half_width for point in points])
            axes.errorbar(x, means, spread, color=colour, marker="o", ms=6, lw=2, capsize=4, label=name)
        axes.axhline(answer.full, color=INK, lw=1, ls=(0, (4, 3)), label=f"all {answer.images:,} images")
        ipcs = [point.ipc for point in answer.points]
        axes.set_xscale("log")
        axes.set_xticks(ipcs, labels=[str(ipc) for ipc in ipcs])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_ylim(0, 100)
        axes.grid(axis="y")
        axes.set_xlabel("images per class")
        axes.set_ylabel("test images recognised (%)")
        axes.legend(loc="lower right")
    return target.getvalue()


def selection(selections: pd.DataFrame) -> bytes:
    """The two terms of Eq. 10 for every drawn set: one row of panels per IPC; a sentence where no row has them."""
    methods, ipcs = list(selections["method"].unique()), list(selections["ipc"].unique())
    if not ipcs:
        with canvas(height=0.8) as (figure, target):
            figure.suptitle("no row measures its sets by their features", fontsize=9, color=MUTED)
        return target.getvalue()
    terms = {"closeness": "closeness to the real centroids", "separation": "separation of the classes"}
    with canvas(height=len(ipcs) * (1.0 + 0.3 * len(methods))) as (figure, target):
        panels = figure.subplots(len(ipcs), len(terms), squeeze=False, sharey=True)
        for row, ipc in zip(panels, ipcs, strict=True):
            sets = selections[selections["ipc"] == ipc]
            for axes, (term, title) in zip(row, terms.items(), strict=True):
                values = {method: sets.loc[sets["method"] == method, term].dropna().to_numpy() for method in methods}
                _dots(axes, values)
                axes.set_title(f"IPC {ipc}: {title}")
                axes.set_xlabel("term of Eq. 10, unweighted (lower is better)")
    return target.getvalue()


def _dots(axes: Axes, values: Mapping[str, np.ndarray]) -> None:
    """One row per method: the mean with one standard deviation, every value as a faint dot just below."""
    for row, numbers in enumerate(values.values()):
        axes.plot(numbers, np.full(len(numbers), row + 0.24), "o", color=ACCENT, alpha=0.4, ms=4, mew=0)
        if len(numbers):
            mean, spread = numbers.mean(), numbers.std(ddof=1) if len(numbers) > 1 else 0.0
            axes.plot([mean - spread, mean + spread], [row, row], color=ACCENT, lw=2, solid_capstyle="round")
            axes.plot(mean, row, "o", color=ACCENT, ms=7, mec=SURFACE, mew=1.4)
    axes.set_yticks(range(len(values)), labels=[label(method) for method in values])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def training(curves: pd.DataFrame, *, columns: int = 4) -> bytes:
    """Loss curves, one panel per training and series: every value faint, a running mean on top; empty without any."""
    panels = list(curves.groupby(["training", "series"], sort=False))
    rows = max(1, -(-len(panels) // columns))
    with canvas(height=1.9 * rows + 0.2) as (figure, target):
        grid = figure.subplots(rows, columns, squeeze=False).flat
        # The panels first: zip must not swallow an axes that stays empty.
        for ((training_name, series), curve), axes in zip(panels, grid, strict=False):
            step, value = curve["step"].to_numpy(), curve["value"].to_numpy()
            axes.plot(step, value, color=ACCENT, alpha=0.3, lw=0.8)
            axes.plot(step, _running_mean(value, window=max(1, len(value) // 20)), color=ACCENT, lw=1.8)
            if value.min() > 0 and value.max() > 20 * value.min():
                axes.set_yscale("log")
            else:
                axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"{training_name}: {series}", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
            axes.grid(axis="y")
        for axes in grid:
            axes.set_axis_off()
        figure.supxlabel("optimiser step" if panels else "no generator was trained", fontsize=9, color=MUTED)
    return target.getvalue()


def _running_mean(values: np.ndarray, *, window: int) -> np.ndarray:
    """Mean of the last ``window`` values, of fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def confusion(confusion: Sequence[Sequence[int]], *, classes: Sequence[str]) -> bytes:
    """Share of each actual class (row) that was predicted as each class (column), in percent."""
    counts = np.array(confusion)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ramp = LinearSegmentedColormap.from_list("share", [SURFACE, ACCENT])
    size = 6.0
    with canvas(height=size, width=size + 0.9) as (figure, target):
        axes = figure.subplots()
        image = axes.imshow(share, cmap=ramp, vmin=0, vmax=100)
        if len(classes) <= MAX_CLASSES:
            classes = legible(classes)
            axes.set_xticks(range(len(classes)), labels=classes, rotation=0 if max(map(len, classes)) < 4 else 90)
            axes.set_yticks(range(len(classes)), labels=classes)
            for (row, column), value in np.ndenumerate(share):
                colour = SURFACE if value > 55 else INK
                if counts[row, column]:
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        bar = figure.colorbar(image, ax=axes, shrink=0.55, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelcolor=MUTED)
        bar.set_label("% of the actual class", color=MUTED)
    return target.getvalue()


def samples(images: Mapping[str, np.ndarray], *, classes: Sequence[str], across: int = 36) -> bytes:
    """The distilled images of every method side by side, one row per class.

    Args:
        images: method -> uint8 (classes, count, H, W, 3).
        across: images in one line of the figure; further methods go below.
    """
    names = legible(classes[:MAX_CLASSES])
    count = max(stack.shape[1] for stack in images.values())
    rows = -(-len(images) // min(MOST_ACROSS, max(1, across // count)))
    columns = -(-len(images) // rows)
    tile = min(1.1, (WIDTH - 0.5) / (columns * count))
    width = columns * count * tile + 0.8
    with canvas(height=rows * (len(names) * tile + 0.45), width=width) as (figure, target):
        panels = figure.subplots(rows, columns, squeeze=False, sharey=False)
        for axes, (method, stack) in zip(panels.flat, images.items(), strict=False):
            cell = stack.shape[2] + gap(stack)
            interpolation = "nearest" if stack.shape[2] <= 64 else "auto"
            axes.imshow(montage(stack[: len(names)], background=_rgb(SURFACE)), interpolation=interpolation)
            axes.set_title(fill(label(method), round(CHARACTERS * count * tile)))
            first = axes.get_subplotspec().is_first_col()
            middles = np.arange(len(names)) * cell + stack.shape[2] / 2 - 0.5
            axes.set_yticks(middles if first else [], labels=names if first else [])
            axes.set_xticks([])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for axes in panels.flat[len(images) :]:
            axes.set_axis_off()
    return target.getvalue()


@cache
def _glyphs() -> FT2Font:
    return get_font(findfont(FontProperties(family=matplotlib.rcParamsDefault["font.family"])))


def legible(names: Sequence[str], first: int = 0) -> list[str]:
    """Class names on one short line each; #<number> for one that the font of the figures cannot write."""
    texts = []
    for number, name in enumerate(names, start=first):
        text = visible(name)
        if not all(_glyphs().get_char_index(ord(c)) for c in text):
            text = f"#{number}"
        texts.append(text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…")
    return texts


def gap(stack: np.ndarray) -> int:
    """Pixels between two images: an eighth of their height."""
    return max(1, stack.shape[2] // 8)


def montage(stack: np.ndarray, *, background: Sequence[int] | np.ndarray) -> np.ndarray:
    """Images (rows, columns, H, W, channels) as one uint8 picture, separated by the colour ``background``."""
    rows, columns, height, width, channels = stack.shape
    tiles = np.empty((rows, columns, height + gap(stack), width + gap(stack), channels), np.uint8)
    tiles[:] = background
    tiles[:, :, :height, :width] = stack
    picture = tiles.swapaxes(1, 2).reshape(rows * tiles.shape[2], columns * tiles.shape[3], channels)
    return picture[: -gap(stack), : -gap(stack)]


def _rgb(colour: str) -> np.ndarray:
    return np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)


def tsne(plane: pd.DataFrame) -> bytes:
    """One panel per method on the same t-SNE plane: real images faint, distilled ones outlined, colour by class."""
    names = list(plane["class"].unique())
    colours = dict(zip(names, _class_colours(len(names)), strict=True))
    background = plane[plane["kind"] == REAL]
    methods = [kind for kind in plane["kind"].unique() if kind != REAL]
    across = 3 if len(methods) > 4 else max(len(methods), 1)
    down = -(-len(methods) // across)
    with canvas(height=down * (WIDTH / max(across, 2) + 0.3)) as (figure, target):
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(methods) :]:
            axes.set_visible(False)
        for axes, method in zip(panels.flat, methods, strict=False):
            points = plane[plane["kind"] == method]
            axes.scatter(background["x"], background["y"], s=9, alpha=0.3, lw=0, color=background["class"].map(colours))
            axes.scatter(
                points["x"], points["y"], s=34, color=points["class"].map(colours), edgecolor=INK, linewidth=0.9
            )
            for name, cluster in background.groupby("class", sort=False) if len(names) <= MAX_CLASSES else ():
                text, top = legible([name], names.index(name))[0], (cluster["x"].median(), cluster["y"].quantile(0.95))
                axes.annotate(text, top, xytext=(0, 6), textcoords="offset points", ha="center", va="bottom", size=9)
            axes.set_title(label(method))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
            axes.margins(0.09)
            axes.set_box_aspect(1)
    return target.getvalue()


def _class_colours(count: int) -> list:
    if count <= len(CATEGORIES):
        return list(CATEGORIES[:count])
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))
