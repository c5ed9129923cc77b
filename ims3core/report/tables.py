"""The numbers of the report: means, spreads, curves and the t-SNE plane, as small tables in a fixed order.

Accuracies are percentages. Standard deviations divide by n - 1 and are empty for a single value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from ims3core.base.records import Record
from ims3core.base.schema import Index
from ims3core.report import published
from ims3core.report.artifacts import FULL, Cell, Percent, SelectionReport

_KEYS = ["method", "ipc", "student", "protocol"]


class RunRow(Record):
    """A line of ``metrics/accuracy.csv``: one trained student."""

    method: str
    ipc: str
    student: str
    protocol: str
    draw: Index
    seed: Index
    last_top1: Percent
    best_top1: Percent


RUN_COLUMNS = list(RunRow.model_fields)


def runs(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per trained student, in the order of ``cells``."""
    rows = [
        (cell.method, str(cell.ipc), cell.student, cell.protocol, run.draw, run.seed, run.last_top1, run.best_top1)
        for cell in cells
        for run in sorted(cell.runs, key=lambda run: (run.draw, run.seed))
    ]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean of the last epoch per method, IPC, student and protocol, and where its spread comes from.

    Columns: ``mean`` and ``std`` over all runs; ``std_sets``, of the means of the drawn sets;
    ``std_seeds``, the mean over sets of the spread over student seeds; ``best_mean``, ``best_std``
    of the best epoch on the evaluation split, which is not the score.
    """
    grid = runs.groupby(_KEYS, sort=False)
    per_set = runs.groupby([*_KEYS, "draw"], sort=False)["last_top1"]
    return pd.DataFrame(
        {
            "mean": grid["last_top1"].mean(),
            "std": grid["last_top1"].std(),
            "std_sets": per_set.mean().groupby(_KEYS, sort=False).std(),
            "std_seeds": per_set.std().groupby(_KEYS, sort=False).mean(),
            "best_mean": grid["best_top1"].mean(),
            "best_std": grid["best_top1"].std(),
        }
    ).reset_index()


def accuracy_tree(summary: pd.DataFrame) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Protocol -> method -> "ipc-<K>" or "full" -> student -> mean of the last epoch, two decimals."""
    tree: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in summary.itertuples():
        methods = tree.setdefault(row.protocol, {})
        column = FULL if row.ipc == FULL else f"ipc-{row.ipc}"
        methods.setdefault(row.method, {}).setdefault(column, {})[row.student] = round(float(row.mean), 2)
    return tree


def selections(reports: Sequence[SelectionReport], *, ipcs: Sequence[int]) -> pd.DataFrame:
    """One row per selected set: the two terms of Eq. 10, the objective and its bound."""
    fields = ["objective", "closeness", "separation", "bound", "bound_kind", "gap", "sweeps"]
    rows = [
        (report.method, str(ipc), choice.draw, report.pool, report.selection, *(getattr(choice, f) for f in fields))
        for report in reports
        for ipc in ipcs
        for choice in sorted(report.cells[str(ipc)], key=lambda choice: choice.draw)
    ]
    frame = pd.DataFrame(rows, columns=["method", "ipc", "draw", "pool", "selection", *fields])
    numbers = [field for field in fields if field != "bound_kind"]
    return frame.astype(dict.fromkeys(numbers, float) | {"bound_kind": object})


def student_curves(cells: Sequence[Cell]) -> pd.DataFrame:
    """Top-1 at each evaluated step, mean over the runs of a cell."""
    rows = [
        (cell.method, str(cell.ipc), cell.student, cell.protocol, step, top1)
        for cell in cells
        for run in cell.runs
        for step, _, top1 in run.curve
    ]
    frame = pd.DataFrame(rows, columns=[*_KEYS, "step", "top1"])
    means = frame.groupby([*_KEYS, "step"], sort=False)["top1"].mean().reset_index()
    order = means.groupby(_KEYS, sort=False).ngroup()
    return means.assign(cell=order).sort_values(["cell", "step"]).drop(columns="cell").reset_index(drop=True)


def training_curves(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Loss curves of several trainings stacked: training, step, series, value; no row where nothing was trained."""
    columns = ["training", "step", "series", "value"]
    parts = [curve.assign(training=name)[columns] for name, curve in curves.items()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def confusion_rows(cell: Cell) -> pd.DataFrame:
    """One row per counted test decision, the form of DVC's confusion template."""
    counts = np.array(cell.confusion)
    actual, predicted = np.indices(counts.shape)
    names = np.array(cell.classes)
    columns = {"actual": names[actual.ravel()], "predicted": names[predicted.ravel()]}
    return pd.DataFrame({name: np.repeat(values, counts.ravel()) for name, values in columns.items()})


def evenly_spaced(class_index: np.ndarray, *, per_class: int) -> np.ndarray:
    """Row numbers of at most ``per_class`` images of each class, spread evenly over their order."""
    chosen = []
    for value in np.unique(class_index):
        rows = np.flatnonzero(class_index == value)
        chosen.append(rows[np.arange(min(per_class, len(rows))) * len(rows) // min(per_class, len(rows))])
    return np.concatenate(chosen)


def tsne(groups: Mapping[str, tuple[np.ndarray, np.ndarray]], *, classes: Sequence[str]) -> pd.DataFrame:
    """One t-SNE plane of all groups together: kind, class, x, y (van der Maaten & Hinton 2008).

    Args:
        groups: kind -> (features (N, dim), class_index (N,)).
    """
    features = np.concatenate([features for features, _ in groups.values()])
    embedding = TSNE(
        init="pca",
        random_state=0,
        perplexity=min(30.0, (len(features) - 1) / 3),
        learning_rate="auto",
        max_iter=500,
    )
    # One thread: the order of a parallel sum would change the last bits.
    with threadpool_limits(limits=1):
        plane = embedding.fit_transform(features)
    kinds = np.repeat(list(groups), [len(index) for _, index in groups.values()])
    names = np.array(classes)[np.concatenate([index for _, index in groups.values()])]
    return pd.DataFrame({"kind": kinds, "class": names, "x": plane[:, 0], "y": plane[:, 1]})


def paper_rows(*, dataset: str, ipc: int) -> pd.DataFrame:
    """The paper's Table 1 for one data set and IPC: method, model, mean, std, in printed order."""
    frame = published.results()
    chosen = frame[(frame["table"] == "1") & (frame["dataset"] == dataset) & (frame["ipc"] == str(ipc))]
    return chosen[["method", "model", "mean", "std"]].reset_index(drop=True)


def csv_text(frame: pd.DataFrame) -> str:
    """CSV with six significant digits, an empty cell for nothing, Unix line ends."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
