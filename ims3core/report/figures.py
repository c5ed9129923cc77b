"""The figures of the report, each drawn for a light or a dark page and returned as the bytes of a PNG.

Figures are built from ``matplotlib.figure.Figure`` under a style of their own, so neither a user's
matplotlibrc nor pyplot's global state can change a byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from ims3core.report.artifacts import FULL
from ims3core.report.published import label
from ims3core.shell.errors import visible

DPI = 160
WIDTH = 10.0  # inches
MAX_CLASSES = 20  # rows of the sample grid, and the largest confusion matrix with numbers in it
LONGEST_NAME = 24  # characters of a class name in a figure
MAX_POINT_IPCS = 3  # beyond, lines over IPC read better than one panel per IPC


@dataclass(frozen=True)
class Theme:
    """Colours of one page background."""

    name: str
    surface: str
    ink: str
    muted: str
    grid: str
    accent: str
    categories: tuple[str, ...]


LIGHT = Theme(
    name="light",
    surface="#ffffff",
    ink="#1d2430",
    muted="#667085",
    grid="#e4e7ec",
    accent="#2563c9",
    categories=(
        "#2563c9", "#d1495b", "#2e8b57", "#b7791f", "#7a5bc0", "#0f8b8d", "#b5527f", "#6b7f2a", "#8a5a3c", "#5b6778",
    ),
)  # fmt: skip
DARK = Theme(
    name="dark",
    surface="#171b22",
    ink="#e6e9ef",
    muted="#98a2b3",
    grid="#2b313c",
    accent="#6ea3f5",
    categories=(
        "#6ea3f5", "#ef8591", "#63c08a", "#dfa94f", "#a98fe6", "#4bc0c2", "#df8bb2", "#a9bf5f", "#c79674", "#98a5b8",
    ),
)  # fmt: skip
THEMES = (LIGHT, DARK)


@contextmanager
def canvas(theme: Theme, *, height: float, width: float = WIDTH) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure in the theme's style; on leaving it is written as PNG without date or version."""
    style = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    style |= {
        "font.size": 9.5,
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "text.color": theme.ink,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.facecolor": theme.surface,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": theme.grid,
        "ytick.color": theme.grid,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.grid,
        "legend.frameon": False,
        "figure.facecolor": theme.surface,
        "savefig.facecolor": theme.surface,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.09,
        "figure.constrained_layout.h_pad": 0.09,
    }
    with matplotlib.rc_context(style):
        figure, target = Figure(figsize=(width, height), dpi=DPI), io.BytesIO()
        yield figure, target
        figure.savefig(target, format="png", metadata={"Software": None})


def accuracy(runs: pd.DataFrame, summary: pd.DataFrame, *, theme: Theme) -> bytes:
    """Accuracy of every method: one panel per student, protocol and IPC, or lines over IPC where there are many."""
    if summary["protocol"].nunique() > 1:  # a student under each protocol is one more row of panels
        runs, summary = (
            frame.assign(student=frame["student"] + ", " + frame["protocol"], protocol="") for frame in (runs, summary)
        )
    ipcs = [ipc for ipc in summary["ipc"].unique() if ipc != FULL]
    students = list(summary["student"].unique())
    if len(ipcs) > MAX_POINT_IPCS:
        return _accuracy_lines(summary, students=students, theme=theme)
    methods = [method for method in summary["method"].unique() if method != FULL]
    with canvas(theme, height=len(students) * (1.0 + 0.34 * len(methods))) as (figure, target):
        panels = figure.subplots(len(students), len(ipcs), squeeze=False, sharey=True)
        for axes, (student, ipc) in zip(panels.flat, [(s, i) for s in students for i in ipcs], strict=True):
            mine = runs[(runs["student"] == student) & (runs["ipc"] == ipc)]
            values = {method: mine.loc[mine["method"] == method, "last_top1"].to_numpy() for method in methods}
            _dots(axes, values, theme=theme)
            full = summary[(summary["student"] == student) & (summary["method"] == FULL)]
            for mean in full["mean"]:
                axes.axvline(mean, color=theme.muted, lw=1, ls=(0, (4, 3)))
                axes.annotate(
                    "full data", (mean, 1), xycoords=("data", "axes fraction"), xytext=(-4, 2),
                    textcoords="offset points", ha="right", va="bottom", color=theme.muted, fontsize=8,
                )  # fmt: skip
            axes.set_title(f"IPC {ipc}" if len(students) == 1 else f"{student}, IPC {ipc}")
            axes.set_xlabel("top-1 accuracy of the last epoch (%)")
    return target.getvalue()


def _accuracy_lines(summary: pd.DataFrame, *, students: Sequence[str], theme: Theme) -> bytes:
    with canvas(theme, height=4.2) as (figure, target):
        panels = figure.subplots(1, len(students), squeeze=False, sharey=True)[0]
        for axes, student in zip(panels, students, strict=True):
            mine = summary[(summary["student"] == student) & (summary["method"] != FULL)]
            for number, (method, rows) in enumerate(mine.groupby("method", sort=False)):
                colour = theme.categories[number % len(theme.categories)]
                x, spread = rows["ipc"].astype(int), rows["std"].fillna(0)
                axes.errorbar(x, rows["mean"], spread, color=colour, marker="o", ms=4, lw=1.6, label=label(method))
            for mean in summary.loc[(summary["student"] == student) & (summary["method"] == FULL), "mean"]:
                axes.axhline(mean, color=theme.muted, lw=1, ls=(0, (4, 3)), label=label(FULL))
            axes.set_xscale("log")
            axes.set_xticks(sorted(mine["ipc"].astype(int).unique()), labels=sorted(mine["ipc"].unique(), key=int))
            axes.minorticks_off()
            axes.grid(axis="y")
            axes.set_title(student)
            axes.set_xlabel("images per class")
        panels[0].set_ylabel("top-1 accuracy of the last epoch (%)")
        panels[-1].legend(loc="lower right")
    return target.getvalue()


def selection(selections: pd.DataFrame, *, theme: Theme) -> bytes:
    """The two terms of Eq. 10 for every drawn set: one row of panels per IPC."""
    methods, ipcs = list(selections["method"].unique()), list(selections["ipc"].unique())
    terms = {"closeness": "closeness to the real centroids", "separation": "separation of the classes"}
    with canvas(theme, height=len(ipcs) * (1.0 + 0.3 * len(methods))) as (figure, target):
        panels = figure.subplots(len(ipcs), len(terms), squeeze=False, sharey=True)
        for row, ipc in zip(panels, ipcs, strict=True):
            mine = selections[selections["ipc"] == ipc]
            for axes, (term, title) in zip(row, terms.items(), strict=True):
                values = {method: mine.loc[mine["method"] == method, term].dropna().to_numpy() for method in methods}
                _dots(axes, values, theme=theme)
                axes.set_title(f"IPC {ipc}: {title}")
                axes.set_xlabel("term of Eq. 10, unweighted (lower is better)")
    return target.getvalue()


def _dots(axes: Axes, values: Mapping[str, np.ndarray], *, theme: Theme) -> None:
    """One row per method: the mean with one standard deviation, every value as a faint dot just below."""
    for row, found in enumerate(values.values()):
        colour = theme.accent
        axes.plot(found, np.full(len(found), row + 0.24), "o", color=colour, alpha=0.4, ms=4, mew=0)
        if len(found):
            mean, spread = found.mean(), found.std(ddof=1) if len(found) > 1 else 0.0
            axes.plot([mean - spread, mean + spread], [row, row], color=colour, lw=2, solid_capstyle="round")
            axes.plot(mean, row, "o", color=colour, ms=7, mec=theme.surface, mew=1.4)
    axes.set_yticks(range(len(values)), labels=[label(method) for method in values])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def training(curves: pd.DataFrame, *, theme: Theme, columns: int = 4) -> bytes:
    """Loss curves, one panel per training and series: every value faint, a running mean on top."""
    panels = list(curves.groupby(["training", "series"], sort=False))
    rows = -(-len(panels) // columns)
    with canvas(theme, height=1.9 * rows + 0.2) as (figure, target):
        grid = figure.subplots(rows, columns, squeeze=False).flat
        # The panels first: zip must not swallow an axes that stays empty.
        for ((training_name, series), curve), axes in zip(panels, grid, strict=False):
            step, value = curve["step"].to_numpy(), curve["value"].to_numpy()
            axes.plot(step, value, color=theme.accent, alpha=0.3, lw=0.8)
            axes.plot(step, _running_mean(value, window=max(1, len(value) // 20)), color=theme.accent, lw=1.8)
            if value.min() > 0 and value.max() > 20 * value.min():
                axes.set_yscale("log")
            else:
                axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(f"{training_name}: {series}", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.tick_params(length=0, labelsize=8, labelcolor=theme.muted)
            axes.grid(axis="y")
        for axes in grid:
            axes.set_axis_off()
        figure.supxlabel("optimiser step", fontsize=9, color=theme.muted)
    return target.getvalue()


def _running_mean(values: np.ndarray, *, window: int) -> np.ndarray:
    """Mean of the last ``window`` values, of fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def confusion(confusion: Sequence[Sequence[int]], *, classes: Sequence[str], theme: Theme) -> bytes:
    """Share of each actual class (row) that was predicted as each class (column), in percent."""
    counts = np.array(confusion)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ramp = LinearSegmentedColormap.from_list("share", [theme.surface, theme.accent])
    size = 6.0
    with canvas(theme, height=size, width=size + 0.9) as (figure, target):
        axes = figure.subplots()
        image = axes.imshow(share, cmap=ramp, vmin=0, vmax=100)
        if len(classes) <= MAX_CLASSES:
            classes = legible(classes)
            axes.set_xticks(range(len(classes)), labels=classes, rotation=0 if max(map(len, classes)) < 4 else 90)
            axes.set_yticks(range(len(classes)), labels=classes)
            for (row, column), value in np.ndenumerate(share):
                colour = theme.surface if value > 55 else theme.ink
                if counts[row, column]:
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.tick_params(length=0, labelcolor=theme.ink)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        bar = figure.colorbar(image, ax=axes, shrink=0.55, aspect=28, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelcolor=theme.muted)
        bar.set_label("% of the actual class", color=theme.muted)
    return target.getvalue()


def samples(images: Mapping[str, np.ndarray], *, classes: Sequence[str], theme: Theme, across: int = 36) -> bytes:
    """The distilled images of every method side by side, one row per class.

    Args:
        images: method -> uint8 (classes, count, H, W, 3).
        across: images in one line of the figure; further methods go below.
    """
    shown = legible(classes[:MAX_CLASSES])
    count = max(stack.shape[1] for stack in images.values())
    rows = -(-len(images) // max(1, across // count))
    columns = -(-len(images) // rows)
    tile = min(1.1, (WIDTH - 0.5) / (columns * count))
    width = columns * count * tile + 0.8
    with canvas(theme, height=rows * (len(shown) * tile + 0.45), width=width) as (figure, target):
        panels = figure.subplots(rows, columns, squeeze=False, sharey=False)
        for axes, (method, stack) in zip(panels.flat, images.items(), strict=False):
            cell = stack.shape[2] + _gap(stack)
            interpolation = "nearest" if stack.shape[2] <= 64 else "auto"
            axes.imshow(_montage(stack[: len(shown)], surface=theme.surface), interpolation=interpolation)
            axes.set_title(label(method))
            first = axes.get_subplotspec().is_first_col()
            middles = np.arange(len(shown)) * cell + stack.shape[2] / 2 - 0.5
            axes.set_yticks(middles if first else [], labels=shown if first else [])
            axes.set_xticks([])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for axes in panels.flat[len(images) :]:
            axes.set_axis_off()
    return target.getvalue()


def gallery(images: Mapping[str, np.ndarray], *, theme: Theme) -> bytes:
    """The images of one class: a row for each method.

    Args:
        images: method -> uint8 (count, H, W, 3).
    """
    count = max(len(stack) for stack in images.values())
    tile = min(0.8, (WIDTH - 1.2) / count)
    with canvas(theme, height=len(images) * tile * 1.15 + 0.2, width=count * tile + 1.2) as (figure, target):
        panels = figure.subplots(len(images), 1, squeeze=False)[:, 0]
        for axes, (method, stack) in zip(panels, images.items(), strict=True):
            axes.imshow(_montage(stack[None], surface=theme.surface), interpolation="nearest", aspect="equal")
            axes.set_ylabel(label(method), rotation=0, ha="right", va="center", color=theme.ink)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            axes.set_anchor("W")
    return target.getvalue()


@cache
def _glyphs() -> FT2Font:
    return get_font(findfont(FontProperties(family=matplotlib.rcParamsDefault["font.family"])))


def legible(names: Sequence[str], first: int = 0) -> list[str]:
    """Class names on one short line each; #<number> for one that the font of the figures cannot write."""
    shown = []
    for number, name in enumerate(names, start=first):
        text = visible(name)
        drawn = all(_glyphs().get_char_index(ord(c)) for c in text)
        shown.append((text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…") if drawn else f"#{number}")
    return shown


def _gap(stack: np.ndarray) -> int:
    """Pixels between two images: an eighth of their height."""
    return max(1, stack.shape[2] // 8)


def _montage(stack: np.ndarray, *, surface: str) -> np.ndarray:
    """(classes, count, H, W, 3) as one uint8 picture, separated by the background colour."""
    gap = _gap(stack)
    background = np.round(255 * np.array(to_rgb(surface))).astype(np.uint8)
    classes, count, height, width, _ = stack.shape
    tiles = np.empty((classes, count, height + gap, width + gap, 3), np.uint8)
    tiles[:] = background
    tiles[:, :, :height, :width] = stack
    picture = tiles.swapaxes(1, 2).reshape(classes * (height + gap), count * (width + gap), 3)
    return picture[:-gap, :-gap]


def tsne(plane: pd.DataFrame, *, real: str, theme: Theme) -> bytes:
    """One panel per method on the same t-SNE plane: real images faint, distilled ones outlined, colour by class."""
    names = list(plane["class"].unique())
    colours = dict(zip(names, _class_colours(len(names), theme), strict=True))
    background = plane[plane["kind"] == real]
    methods = [kind for kind in plane["kind"].unique() if kind != real]
    across = 3 if len(methods) > 4 else max(len(methods), 1)
    down = -(-len(methods) // across)
    with canvas(theme, height=down * (WIDTH / max(across, 2) + 0.3)) as (figure, target):
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(methods) :]:
            axes.set_visible(False)
        for axes, method in zip(panels.flat, methods, strict=False):
            mine = plane[plane["kind"] == method]
            axes.scatter(background["x"], background["y"], s=9, alpha=0.3, lw=0, color=background["class"].map(colours))
            axes.scatter(
                mine["x"], mine["y"], s=34, color=mine["class"].map(colours), edgecolor=theme.ink, linewidth=0.9
            )
            for name, points in background.groupby("class", sort=False) if len(names) <= MAX_CLASSES else ():
                top = (points["x"].median(), points["y"].quantile(0.95))
                axes.annotate(
                    legible([name], names.index(name))[0],
                    top,
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    size=9,
                )
            axes.set_title(label(method))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
            axes.margins(0.09)
            axes.set_box_aspect(1)
    return target.getvalue()


def _class_colours(count: int, theme: Theme) -> list:
    if count <= len(theme.categories):
        return list(theme.categories[:count])
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))
