"""Everything the report is made of: read and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.base.records import stale
from ims3core.data import read_classes
from ims3core.data.distilled import SetKey
from ims3core.report import artifacts, costs, layouts, planes, published, statistics, tables
from ims3core.report.artifacts import FULL

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ims3core.params import Params
    from ims3core.params.sections import Data, Eval
    from ims3core.report.artifacts import DistilledSet, Results
    from ims3core.report.layouts import Layout
    from ims3core.students.settings import Protocol

NOTHING = "–"
COMPARED_WITH = ("random", "dit")  # every row is compared with these
MAX_CLASSES = 20  # beyond, figures show the first so many classes, and there are no galleries
HIGHER = "higher"  # the table that holds the better protocol of each cell


@dataclass(frozen=True)
class MethodRow:
    """The entries that one row of the tables is made of."""

    method: str
    pool: str
    source: str
    adaptation: str
    guide: str
    sampler: str
    selection: str
    refined: str


@dataclass(frozen=True)
class ReportData:
    """What the report shows.

    Attributes:
        dataset: the name of the data set.
        featured: the method of the confusion matrix and the t-SNE plot.
        grid: what is compared, and how often.
        protocols: those of the grid, by name.
        method_rows: one per method of the grid.
        fixed: methods whose drawn sets are all the same, so that their means differ by the students alone.
        results: the checked records of all cells and selections.
        runs, summary, selections, comparisons, coverage, costs, curves, plane: the numbers, as the functions of
            :mod:`ims3core.report.tables`, ``statistics``, ``costs`` and ``planes`` return them.
        layouts: the table of every protocol in the paper's shape, and ``higher`` where there are several.
        names: what people call the classes, in the order of class_index.
        absent: what is said where the paper has no number for any cell.
        images: per method, uint8 (classes, count, H, W, 3): the first images of each class in the first drawn set.
        grid_images: how many of them the sample grid shows; galleries show all.
    """

    dataset: str
    featured: str
    grid: Eval
    protocols: dict[str, Protocol]
    method_rows: list[MethodRow]
    fixed: list[str]
    results: Results
    runs: pd.DataFrame
    summary: pd.DataFrame
    selections: pd.DataFrame
    comparisons: pd.DataFrame
    coverage: pd.DataFrame
    costs: pd.DataFrame
    curves: pd.DataFrame
    plane: pd.DataFrame
    layouts: dict[str, Layout]
    names: list[str]
    absent: str
    images: dict[str, np.ndarray]
    grid_images: int

    @property
    def classes(self) -> list[str]:
        """The folders of the classes, in the order of class_index."""
        return self.results.cells[0].classes

    @property
    def best(self) -> str:
        """The row whose mean over the IPCs is highest, for the first student and protocol; the first of equals."""
        cells = self.summary[self.summary["method"] != FULL]
        first = (cells["student"] == self.grid.students[0]) & (cells["protocol"] == self.grid.protocols[0])
        means: dict[str, float] = cells[first].groupby("method", sort=False)["mean"].mean().to_dict()
        return max(self.grid.methods, key=lambda name: means[name])

    def folder(self, method: str) -> str:
        """Where the first drawn set of a row lies, at the largest IPC."""
        return SetKey(method, self.largest, 0).folder.as_posix()

    def export(self, method: str) -> str:
        """The command that takes that set away."""
        return f"ims3 export set {method} {self.largest} {method}-{self.largest}"

    @property
    def largest(self) -> int:
        """The largest IPC of the grid."""
        return max(self.grid.ipc)


def read(params: Params, root: Path) -> ReportData:
    """Reads every input of the report.

    Raises:
        ArtifactError: naming the first input that is missing, damaged or stale.
    """
    grid, featured = params.eval, params.report.tsne_method
    results = read_results(params, root)
    classes = results.cells[0].classes
    sets = {name: artifacts.open_set(root, SetKey(name, max(grid.ipc), 0)) for name in grid.methods}
    runs = tables.runs([*results.cells, *results.full])
    summary = tables.summary(runs)
    fixed = [name for name in grid.methods if _is_fixed(params, results, name)]
    others = [name for name in COMPARED_WITH if name in grid.methods]
    generated = [name for name in params.pools if not params.pool(name).source.indexed]
    on_plane = {name: sets[name] for name in sets if name in (*COMPARED_WITH, featured)}
    return ReportData(
        dataset=dataset_name(params.data), featured=featured, grid=grid,
        protocols={name: params.protocols[name] for name in grid.protocols},
        method_rows=[_method_row(params, name) for name in grid.methods],
        fixed=fixed, results=results, runs=runs, summary=summary,
        selections=tables.selections(results.selections, ipcs=grid.ipc),
        comparisons=statistics.comparisons(runs[runs["method"] != FULL], others=others, fixed=fixed),
        coverage=artifacts.read_coverage(root, grid, generated), costs=costs.frame(params, root, classes=len(classes)),
        curves=_curves(params, root), plane=planes.plane(params, root, on_plane, classes=classes),
        layouts=accuracy_layouts(params, summary),
        names=class_names(root, classes),
        absent=published.absent(dataset=published.dataset(params.data), resolution=params.data.side),
        images=_images(params, sets, len(classes)),
        grid_images=params.report.grid_images,
    )  # fmt: skip


def dataset_name(section: Data) -> str:
    """What the page calls the data set: its name, the folder or file that it is in, or its source."""
    return section.name or (Path(section.path).name.removesuffix(".npz") if section.path else section.source)


def read_results(params: Params, root: Path) -> Results:
    """The checked records of the grid of ``params``."""
    made_of = {name: (row.pool, row.type) for name, row in params.methods.items()}
    made_of |= {name: (row.start, row.type) for name, row in params.refinements.items()}
    return artifacts.read_results(root, made_of, params.eval)


def class_names(root: Path, classes: list[str]) -> list[str]:
    """One short name for each class: what people call it up to the first comma, and its folder where two are called so.

    Raises:
        ArtifactError: the class table has other classes than the results, ``classes``.
    """
    path = root / "data/real/classes.json"
    table = read_classes(path)
    if [row.name for row in table] != classes:
        raise stale(path, f"classes {[row.name for row in table]}, the results have {classes}")
    short = [row.human_name.split(",")[0].strip() or row.name for row in table]
    return [name if short.count(name) == 1 else f"{name} ({row.name})" for name, row in zip(short, table, strict=True)]


def accuracy_layouts(params: Params, summary: pd.DataFrame) -> dict[str, Layout]:
    """The table of every protocol in the paper's shape, and ``higher`` where there are several."""

    data_set, side = published.dataset(params.data), params.data.side

    def printed(student: str, ipc: int, method: str, protocol: str) -> tuple[str, str]:
        network = None if student == published.UNSTATED else params.network(student)
        return published.find(
            dataset=data_set, resolution=side, network=network, ipc=ipc, method=method, protocol=protocol
        )  # fmt: skip

    by_protocol = {
        name: layouts.layout(
            summary, params.eval, protocol=name, published=partial(printed, protocol=name),
            others=published.others(dataset=data_set, resolution=side, protocol=name),
        )
        for name in params.eval.protocols
    }  # fmt: skip
    higher = layouts.higher(by_protocol)
    return by_protocol if higher is None else by_protocol | {HIGHER: higher}


def markdown(params: Params, root: Path) -> str:
    """The result tables as Markdown, one per protocol."""
    results = read_results(params, root)
    by_name = accuracy_layouts(params, tables.summary(tables.runs([*results.cells, *results.full])))
    by_name.pop(HIGHER, None)
    texts = {name: layouts.markdown(table) for name, table in by_name.items()}
    return "\n\n".join(texts.values() if len(texts) == 1 else (f"{name}:\n\n{text}" for name, text in texts.items()))


def _is_fixed(params: Params, results: Results, name: str) -> bool:
    """Whether all drawn sets of a row are one: a deterministic choice of real images."""
    report = next(report for report in results.selections if report.method == name)
    return report.deterministic and name in params.methods and params.pools[report.pool].source == "real"


def _method_row(params: Params, name: str) -> MethodRow:
    start, refined = params.lineage(name)
    method = params.methods[start]
    pool: dict[str, Any] = params.pools[method.pool].model_dump(include={"source", "adaptation", "guide", "sampler"})
    steps = ", ".join(params.refinements[row].type for row in refined) or NOTHING
    return MethodRow(name, method.pool, **pool, selection=method.type, refined=steps)


def _curves(params: Params, root: Path) -> pd.DataFrame:
    """The loss curves of every training of the generator."""
    folders = {"generator": "data/generator"} if params.generator.source == "train" else {}
    trained = [name for name in params.adaptations if params.adaptation(name).trains]
    folders |= {name: f"data/adapted/{name}" for name in trained}
    curves = {name: artifacts.read_curve(root / folder / "curve.csv") for name, folder in folders.items()}
    return tables.training_curves(curves)


def _images(params: Params, sets: dict[str, DistilledSet], classes: int) -> dict[str, np.ndarray]:
    """The images of every set that the page shows."""
    count = params.report.grid_images
    if classes <= MAX_CLASSES:
        count = max(count, params.report.gallery_images)
    return {name: one.images(classes=classes, count=count) for name, one in sets.items()}
