"""Every output of the report as bytes: tables, charts and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ims3core.base import files
from ims3core.report import answer, ddranking, figures, layouts, page, pictures, tables
from ims3core.report.artifacts import FULL
from ims3core.report.data import MAX_CLASSES

if TYPE_CHECKING:
    import numpy as np

    from ims3core.report.artifacts import Cell
    from ims3core.report.data import ReportData


def render(data: ReportData, studies: Sequence[page.StudyPart]) -> dict[str, bytes]:
    """The content of every file below the project's root, by its path; ``studies`` are the parts of the page on them.

    The page comes last: what is written in this order is complete once the page is there.
    """
    charts = {name: draw() for name, draw in _charts(data).items()}
    contents = {f"metrics/plots/{name}.png": png for name, png in charts.items()}
    contents |= {f"{path}.csv": tables.csv_text(frame).encode() for path, frame in _frames(data).items()}
    for name, table in data.layouts.items():
        contents[f"metrics/tables/{name}.md"] = (layouts.markdown(table) + "\n").encode()
        contents[f"metrics/tables/{name}.tex"] = (layouts.latex(table) + "\n").encode()
    contents["metrics/accuracy.json"] = files.json_bytes(tables.accuracy_tree(data.summary))
    samples, galleries = _photographs(data)
    on_page = {name: pictures.opened(pictures.chart(png)) for name, png in charts.items() if name != "samples"}
    told = answer.answer(data)
    on_page["curve"] = pictures.opened(pictures.chart(figures.curve(told)))
    html = page.html(data, told, page.Pictures(on_page, samples, galleries), studies)
    return contents | {"reports/index.html": html.encode()}


def featured_cell(data: ReportData) -> Cell:
    """The cell whose confusion matrix is shown: the featured method, largest IPC, first student and protocol."""
    return data.results.cell(data.featured, data.largest, data.grid.students[0], data.grid.protocols[0])


def _charts(data: ReportData) -> dict[str, Callable[[], bytes]]:
    """Each chart's name and the function that draws it."""
    samples = {name: stack[:, : data.grid_images] for name, stack in data.images.items()}
    return {
        "accuracy": lambda: figures.accuracy(data.runs, data.summary),
        "samples": lambda: figures.samples(samples, classes=data.names),
        "tsne": lambda: figures.tsne(data.plane.replace({"class": dict(zip(data.classes, data.names, strict=True))})),
        "selection": lambda: figures.selection(data.selections),
        "training": lambda: figures.training(data.curves),
        "confusion": lambda: figures.confusion(featured_cell(data).confusion, classes=data.names),
    }


def _frames(data: ReportData) -> dict[str, object]:
    """Each table's path without its ending, and the table."""
    labels = {name: protocol.labels for name, protocol in data.protocols.items()}
    return {
        "metrics/accuracy": data.runs,
        "metrics/comparisons": data.comparisons,
        "metrics/cost": data.costs,
        "metrics/tables/accuracy": layouts.csv_frame(list(data.layouts.values())),
        "metrics/tables/ddranking": ddranking.frame(data.summary, labels),
        "metrics/plots/accuracy": data.summary[data.summary["method"] != FULL],
        "metrics/plots/selection": data.selections,
        "metrics/plots/training": data.curves,
        "metrics/plots/students": tables.student_curves([*data.results.cells, *data.results.full]),
        "metrics/plots/confusion": tables.confusion_rows(featured_cell(data)),
        "metrics/plots/tsne": data.plane,
    }


Sheets = dict[str, pictures.Picture]


def _photographs(data: ReportData) -> tuple[Sheets, dict[str, Sheets]]:
    """The sample grid of every method, and per class the gallery of every method (paper Fig. 9-20).

    There are no galleries where there are many classes.
    """
    stacks: dict[str, np.ndarray] = {name: stack[:MAX_CLASSES] for name, stack in data.images.items()}
    names = data.names if len(data.names) <= MAX_CLASSES else []
    count = sum(len(s) * (min(data.grid_images, s.shape[1]) + (s.shape[1] if names else 0)) for s in stacks.values())
    photographs = pictures.Photographs.for_page(count, next(iter(stacks.values())).shape[2])
    samples = {name: photographs.sheet(stack[:, : data.grid_images]) for name, stack in stacks.items()}
    galleries = {
        name: {method: photographs.sheet(stack[index, None]) for method, stack in stacks.items()}
        for index, name in enumerate(names)
    }
    return samples, galleries
