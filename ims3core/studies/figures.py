"""The figure of a study: a heat map over two varied numbers, lines over one, else one dot per alternative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ims3core.report.figures import Theme, canvas
from ims3core.studies import sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ims3core.params.sections import Study

AXES = {
    "accuracy": "top-1 accuracy (%), more is better", "gap": "share of the gap from DiT to full data (%)",
    "full_data": "all real images (%)", "recall": "recall (%), more: real images are covered",
    "precision": "precision (%), more: images look real", "coverage": "coverage (%), more is better",
    "density": "density", "boundary": "distance to the teacher's boundary",
    "recognised": "recognised by the teacher (%)",
    "sampling_calls": "network calls to sample", "finetuning_passes": "network passes to fine-tune",
    "real_images": "real images read", "log_coefficient": "log of the instability coefficient",
}  # fmt: skip
FAR_APART = 20  # ratio of largest to smallest value from which an axis is logarithmic


def draw(study: Study, frame: pd.DataFrame, labels: Sequence[str], *, theme: Theme) -> bytes:
    """The figure as the bytes of a PNG."""
    numeric = [label for label in labels if _all_numbers(frame[label])]
    if len(labels) == 2 and len(numeric) == 2:
        return _heat(study, frame, labels, theme)
    if len(labels) == 1 and numeric and frame[labels[0]].nunique() > 2:
        return _lines(study, frame, labels[0], theme)
    return _dots(study, frame, labels, theme)


def _all_numbers(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").notna().all())


def _panels(study: Study, frame: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(measure, IPC, lines) of every panel."""
    return [
        (metric, ipc, frame[(frame["metric"] == metric) & (frame["ipc"] == ipc)])
        for metric in sentences.shown(study, frame)
        for ipc in dict.fromkeys(frame.loc[frame["metric"] == metric, "ipc"])
    ]


def _title(metric: str, ipc: str, row: str = "") -> str:
    return ", ".join(part for part in (row, metric, ipc and f"IPC {ipc}") if part)


def _grid(count: int, across: int = 3) -> tuple[int, int]:
    columns = min(count, across)
    return -(-count // columns), columns


def _heat(study: Study, frame: pd.DataFrame, labels: Sequence[str], theme: Theme) -> bytes:
    """One panel per row and IPC; the number in a field is its mean."""
    down, across = labels
    panels = [
        (metric, ipc, row, mine[mine["row"] == row])
        for metric, ipc, mine in _panels(study, frame)
        for row in dict.fromkeys(mine["row"])
    ]
    rows, columns = _grid(len(panels), 2)
    with canvas(theme, height=3.6 * rows) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False)
        for axes, (metric, ipc, row, mine) in zip(places.flat, panels, strict=False):
            means = mine.groupby([down, across], sort=False)["value"].mean().unstack()
            means = means.loc[sorted(means.index, key=float), sorted(means.columns, key=float)]
            image = axes.imshow(means.to_numpy(), cmap="viridis", origin="lower", aspect="auto")
            low, high = image.get_clim()
            for y, x in np.ndindex(means.shape):
                value = means.iat[y, x]
                colour = "#ffffff" if value < (low + high) / 2 else "#101418"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8.5)
            axes.set_xticks(range(means.shape[1]), means.columns)
            axes.set_yticks(range(means.shape[0]), means.index)
            axes.set(xlabel=across, ylabel=down, title=_title(metric, ipc, row))
            figure.colorbar(image, ax=axes, label=AXES.get(metric, metric))
        _hide(places, len(panels))
    return target.getvalue()


def _lines(study: Study, frame: pd.DataFrame, label: str, theme: Theme) -> bytes:
    """One panel per measure and IPC, a line per row; bars are 95 % intervals over drawn sets."""
    panels = _panels(study, frame)
    rows, columns = _grid(len(panels))
    with canvas(theme, height=3.1 * rows) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False)
        for axes, (metric, ipc, mine) in zip(places.flat, panels, strict=False):
            for n, row in enumerate(dict.fromkeys(mine["row"])):
                found = sentences.values(mine[mine["row"] == row], [label])
                x = np.array([float(key) for (key,) in found])
                order = np.argsort(x)
                mean, half = (np.array([getattr(v, part) for v in found.values()]) for part in ("mean", "half_width"))
                shift = 1 + 0.02 * n if _spreads(x) else 1
                axes.errorbar(
                    x[order] * shift, mean[order], yerr=np.nan_to_num(half[order]), label=row, capsize=2, marker="o",
                    ms=4, lw=1.5, elinewidth=1, color=theme.categories[n % len(theme.categories)],
                )  # fmt: skip
            if _spreads(x):
                axes.set_xscale("log")
                axes.set_xticks(np.sort(x), [f"{value:g}" for value in np.sort(x)])
                axes.minorticks_off()
            axes.grid(axis="y")
            axes.set(xlabel=label, ylabel=AXES.get(metric, metric), title=_title(metric, ipc))
        places.flat[0].legend()
        _hide(places, len(panels))
    return target.getvalue()


def _spreads(x: np.ndarray) -> bool:
    return bool(x.min() > 0 and x.max() / x.min() >= FAR_APART)


def _dots(study: Study, frame: pd.DataFrame, labels: Sequence[str], theme: Theme) -> bytes:
    """One panel per measure and IPC, a dot with its 95 % interval per alternative, small dots for drawn sets."""
    panels = _panels(study, frame)
    frame = frame.assign(setting=sentences.setting_names(frame, labels) if labels else "")
    names = list(dict.fromkeys(zip(frame["row"], frame["setting"], strict=True)))
    rows, columns = _grid(len(panels))
    with canvas(theme, height=rows * (1.1 + 0.3 * len(names))) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (metric, ipc, _) in zip(places.flat, panels, strict=False):
            mine = frame[(frame["metric"] == metric) & (frame["ipc"] == ipc)]
            found = sentences.values(mine, ["row", "setting"])
            for place, name in enumerate(names):
                if name in found:
                    _dot(axes, place, found[name], theme.categories[0], theme)
            axes.set_yticks(range(len(names)), [", ".join(part for part in name if part) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(axis="x")
            axes.set(xlabel=AXES.get(metric, metric), title=_title(metric, ipc))
        _hide(places, len(panels))
    return target.getvalue()


def _dot(axes: Axes, place: int, value: sentences.Value, colour: str, theme: Theme) -> None:
    axes.plot(value.sets, [place] * len(value.sets), ".", color=theme.muted, ms=4, alpha=0.6)
    axes.errorbar(
        [value.mean], [place], xerr=[np.nan_to_num(value.half_width)], fmt="o", color=colour, capsize=3, ms=6, lw=1.3
    )


def _hide(places: np.ndarray, used: int) -> None:
    for axes in places.flat[used:]:
        axes.set_visible(False)
