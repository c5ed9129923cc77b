"""The figure of a study: a heat map over two varied numbers, lines over one, else one dot per alternative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ims3core.report.figures import CATEGORIES, MUTED, canvas, tsne
from ims3core.report.page import StudyPart
from ims3core.report.pictures import chart, opened
from ims3core.studies import definitions, results, sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ims3core.params import Params
    from ims3core.studies.definitions import Study

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


class Drawing(NamedTuple):
    """A picture of the page: the JSON-able facts that decide its bytes, and the function that draws it as a PNG."""

    facts: list[Any]
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class FinishedStudy:
    """A study that was run on the data set of the report: its values, and its t-SNE plane where it has one."""

    name: str
    study: Study
    frame: pd.DataFrame
    plane: pd.DataFrame | None

    @property
    def drawings(self) -> list[Drawing]:
        """The pictures of the study on the page."""
        facts = [self.name, self.study.model_dump(mode="json"), self.frame.to_csv()]
        pictures = [Drawing(facts, lambda: chart(draw(self.study, self.frame)))]
        if (plane := self.plane) is not None:
            pictures.append(Drawing([self.name, plane.to_csv()], lambda: chart(tsne(plane))))
        return pictures

    def part(self, pictures: Sequence[bytes]) -> StudyPart:
        """The study on the page; ``pictures`` are those of :attr:`drawings`, drawn."""
        texts = sentences.sentences(self.study, self.frame)
        return StudyPart(self.name, self.study.claim, texts, [opened(png) for png in pictures])


def finished(params: Params, root: Path) -> list[FinishedStudy]:
    """The studies of ``params`` that have values of its data set."""
    dataset, studies = params.data.name or params.data.source, []
    for name, study in definitions.read(root).items():
        frame = results.read(root, name, study.labels)
        frame = frame[frame["data"] == dataset]
        if len(frame):
            plane = results.read_plane(root, name) if results.has_plane(root, name, list(frame["key"])) else None
            studies.append(FinishedStudy(name, study, frame, plane))
    return studies


def draw(study: Study, frame: pd.DataFrame) -> bytes:
    """The figure of a study as the bytes of a PNG."""
    labels = study.labels
    numeric = [label for label in labels if _all_numbers(frame[label])]
    if len(labels) == 2 and len(numeric) == 2:
        return _heat(study, frame)
    if len(labels) == 1 and numeric and frame[labels[0]].nunique() > 2:
        return _lines(study, frame)
    return _dots(study, frame)


def _all_numbers(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").notna().all())


class Panel(NamedTuple):
    """The lines of one measure and IPC; of one row alone where it is not empty."""

    metric: str
    ipc: str
    lines: pd.DataFrame
    row: str = ""

    @property
    def title(self) -> str:
        """Row, measure and IPC."""
        return ", ".join(part for part in (self.row, self.metric, self.ipc and f"IPC {self.ipc}") if part)

    @property
    def axis(self) -> str:
        """The label of the axis of the measure."""
        return AXES.get(self.metric, self.metric)


def _panels(study: Study, frame: pd.DataFrame) -> list[Panel]:
    return [
        Panel(metric, ipc, frame[(frame["metric"] == metric) & (frame["ipc"] == ipc)])
        for metric in sentences.drawn_measures(study, frame)
        for ipc in dict.fromkeys(frame.loc[frame["metric"] == metric, "ipc"])
    ]


def _grid(count: int, across: int = 3) -> tuple[int, int]:
    columns = min(count, across)
    return -(-count // columns), columns


def _heat(study: Study, frame: pd.DataFrame) -> bytes:
    """One panel per row and IPC; the number in a field is its mean."""
    down, across = study.labels
    panels = [
        Panel(panel.metric, panel.ipc, panel.lines[panel.lines["row"] == row], row)
        for panel in _panels(study, frame)
        for row in dict.fromkeys(panel.lines["row"])
    ]
    rows, columns = _grid(len(panels), 2)
    with canvas(height=3.6 * rows) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(places.flat, panels, strict=False):
            means = panel.lines.groupby([down, across], sort=False)["value"].mean().unstack()
            means = means.loc[sorted(means.index, key=float), sorted(means.columns, key=float)]
            image = axes.imshow(means.to_numpy(), cmap="viridis", origin="lower", aspect="auto")
            low, high = image.get_clim()
            for y, x in np.ndindex(means.shape):
                value = means.iat[y, x]
                colour = "#ffffff" if value < (low + high) / 2 else "#101418"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8.5)
            axes.set_xticks(range(means.shape[1]), means.columns)
            axes.set_yticks(range(means.shape[0]), means.index)
            axes.set(xlabel=across, ylabel=down, title=panel.title)
            figure.colorbar(image, ax=axes, label=panel.axis)
        _hide(places, len(panels))
    return target.getvalue()


def _lines(study: Study, frame: pd.DataFrame) -> bytes:
    """One panel per measure and IPC, a line per row; bars are 95 % intervals over drawn sets."""
    panels, (label,) = _panels(study, frame), study.labels
    rows, columns = _grid(len(panels))
    with canvas(height=3.1 * rows) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(places.flat, panels, strict=False):
            for n, row in enumerate(dict.fromkeys(panel.lines["row"])):
                values = sentences.values(panel.lines[panel.lines["row"] == row], [label])
                x = np.array([float(key) for (key,) in values])
                order = np.argsort(x)
                mean, half = (np.array([getattr(v, part) for v in values.values()]) for part in ("mean", "half_width"))
                shift = 1 + 0.02 * n if _spreads(x) else 1
                axes.errorbar(
                    x[order] * shift, mean[order], yerr=np.nan_to_num(half[order]), label=row, capsize=2, marker="o",
                    ms=4, lw=1.5, elinewidth=1, color=CATEGORIES[n % len(CATEGORIES)],
                )  # fmt: skip
            if _spreads(x):
                axes.set_xscale("log")
                axes.set_xticks(np.sort(x), [f"{value:g}" for value in np.sort(x)])
                axes.minorticks_off()
            axes.grid(axis="y")
            axes.set(xlabel=label, ylabel=panel.axis, title=panel.title)
        places.flat[0].legend()
        _hide(places, len(panels))
    return target.getvalue()


def _spreads(x: np.ndarray) -> bool:
    return bool(x.min() > 0 and x.max() / x.min() >= FAR_APART)


def _dots(study: Study, frame: pd.DataFrame) -> bytes:
    """One panel per measure and IPC, a dot with its 95 % interval per alternative, small dots for drawn sets."""
    frame = frame.assign(setting=sentences.setting_names(frame, study.labels) if study.labels else "")
    panels = _panels(study, frame)
    names = list(dict.fromkeys(zip(frame["row"], frame["setting"], strict=True)))
    rows, columns = _grid(len(panels))
    with canvas(height=rows * (1.1 + 0.3 * len(names))) as (figure, target):
        places = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, panel in zip(places.flat, panels, strict=False):
            values = sentences.values(panel.lines, ["row", "setting"])
            for place, name in enumerate(names):
                if name in values:
                    _dot(axes, place, values[name])
            axes.set_yticks(range(len(names)), [", ".join(part for part in name if part) for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(axis="x")
            axes.set(xlabel=panel.axis, title=panel.title)
        _hide(places, len(panels))
    return target.getvalue()


def _dot(axes: Axes, place: int, value: sentences.Value) -> None:
    axes.plot(value.sets, [place] * len(value.sets), ".", color=MUTED, ms=4, alpha=0.6)
    half = np.nan_to_num(value.half_width)
    axes.errorbar([value.mean], [place], xerr=[half], fmt="o", color=CATEGORIES[0], capsize=3, ms=6, lw=1.3)


def _hide(places: np.ndarray, used: int) -> None:
    for axes in places.flat[used:]:
        axes.set_visible(False)
