"""report: tables, plots and one offline page from every cell of the grid (all tables and figures of the paper)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ims3core.base import files
from ims3core.params import Params
from ims3core.report import artifacts, costs, ddranking, figures, layouts, page, planes, published, statistics, tables
from ims3core.shell import code, scratch
from ims3core.shell.errors import ParameterError
from ims3core.studies import figures as studies
from ims3core.studies import results, sentences

log = logging.getLogger(__name__)

OTHERS = ("random", "dit")  # every row is compared with these
HIGHER = "higher"


def run(params: Params, root: Path) -> None:
    """Reads every input before it writes metrics/accuracy.{csv,json}, metrics/plots and reports/index.html."""
    grid, featured, largest = params.eval, params.report.tsne_method, max(params.eval.ipc)
    if featured not in grid.methods:
        raise ParameterError(f"report.tsne_method: found {featured!r}, wanted one of eval.methods {grid.methods}")
    found = _results(params, root)
    shown = found.cell(featured, largest, grid.students[0], grid.protocols[0])
    manifests = {name: artifacts.read_manifest(root, method=name, ipc=largest, draw=0) for name in grid.methods}
    size = {"classes": len(shown.classes), "count": params.report.grid_images}
    images = {name: artifacts.read_images(root, manifest, **size) for name, manifest in manifests.items()}
    runs = tables.runs([*found.cells, *found.full])
    summary, chosen = tables.summary(runs), tables.selections(found.selections, ipcs=grid.ipc)
    curves = _curves(params, root)
    compared_on_plane = {name: manifests[name] for name in manifests if name in ("random", "dit", featured)}
    plane = planes.plane(params, root, compared_on_plane, classes=shown.classes)
    fixed = [name for name in grid.methods if _is_fixed(params, found, name)]
    compared = statistics.comparisons(
        runs[runs["method"] != artifacts.FULL], others=[name for name in OTHERS if name in grid.methods], fixed=fixed
    )
    made = _layouts(params, summary)
    cost = costs.frame(params, root, classes=len(shown.classes))
    coverage = artifacts.read_coverage(root)

    drawings: dict[str, Callable[[figures.Theme], bytes]] = {
        "accuracy": lambda theme: figures.accuracy(runs, summary, theme=theme),
        "samples": lambda theme: figures.samples(images, classes=shown.classes, theme=theme),
        "tsne": lambda theme: figures.tsne(plane, real=tables.REAL, theme=theme),
        "selection": lambda theme: figures.selection(chosen, theme=theme),
        "training": lambda theme: figures.training(curves, theme=theme),
        "confusion": lambda theme: figures.confusion(shown.confusion, classes=shown.classes, theme=theme),
    }
    pictures = {name: page.Picture(*map(draw, figures.THEMES)) for name, draw in drawings.items()}
    html = page.html(
        setting=page.Setting(
            dataset=params.data.name or params.data.source, classes=tuple(shown.classes), featured=featured,
            **grid.model_dump(), protocol_values={name: params.protocols[name].model_dump() for name in grid.protocols},
        ),
        recipes=[_recipe(params, name) for name in grid.methods],
        summary=summary, selections=chosen, comparisons=compared, coverage=coverage, costs=cost, layouts=made,
        pictures=pictures, galleries=_galleries(params, root, manifests, shown.classes), studies=_studies(params, root),
        fixed=fixed, paper=tables.paper_rows(dataset="ImageWoof", ipc=10),
    )  # fmt: skip
    frames = {
        "accuracy": summary[summary["method"] != artifacts.FULL], "selection": chosen, "training": curves,
        "students": tables.student_curves([*found.cells, *found.full]),
        "confusion": tables.confusion_rows(shown), "tsne": plane,
    }  # fmt: skip
    written = {f"metrics/plots/{name}.csv": tables.csv_text(frame).encode() for name, frame in frames.items()}
    written |= {f"metrics/plots/{name}.png": picture.light for name, picture in pictures.items()}
    written["metrics/tables/accuracy.csv"] = tables.csv_text(layouts.csv_frame(list(made.values()))).encode()
    kinds = {name: params.protocols[name].labels for name in grid.protocols}
    written["metrics/tables/ddranking.csv"] = tables.csv_text(ddranking.frame(summary, kinds)).encode()
    for name, table in made.items():
        written[f"metrics/tables/{name}.md"] = (layouts.markdown(table) + "\n").encode()
        written[f"metrics/tables/{name}.tex"] = (layouts.latex(table) + "\n").encode()
    written["metrics/comparisons.csv"] = tables.csv_text(compared).encode()
    written["metrics/cost.csv"] = tables.csv_text(cost).encode()
    written["metrics/accuracy.csv"] = tables.csv_text(runs).encode()
    for path, content in written.items():
        files.write_bytes(root / path, content)
    files.write_json(root / "metrics/accuracy.json", tables.accuracy_tree(summary))
    files.write_bytes(root / "reports/index.html", html.encode())


def markdown(params: Params, root: Path) -> str:
    """The result tables as Markdown, one per protocol."""
    found = _results(params, root)
    made = _layouts(params, tables.summary(tables.runs([*found.cells, *found.full])))
    made.pop(HIGHER, None)
    texts = [layouts.markdown(table) for table in made.values()]
    if len(made) > 1:
        texts = [f"{name}:\n\n{text}" for name, text in zip(made, texts, strict=True)]
    return "\n\n".join(texts)


def _layouts(params: Params, summary: pd.DataFrame) -> dict[str, layouts.Layout]:
    """The table of every protocol in the paper's shape, and the higher of them where there are several."""
    grid = params.eval

    def printed(student: str, ipc: int, method: str) -> tuple[str, str]:
        return published.find(
            dataset=params.data.classes, resolution=params.data.side, network=params.network(student), ipc=ipc,
            method=method,
        )  # fmt: skip

    made = {
        protocol: layouts.layout(
            summary, protocol=protocol, methods=grid.methods, ipcs=grid.ipc, students=grid.students, published=printed
        )
        for protocol in grid.protocols
    }
    both = layouts.higher(made)
    return made if both is None else made | {HIGHER: both}


def _is_fixed(params: Params, found: artifacts.Results, name: str) -> bool:
    """Whether all drawn sets of a row are one: a deterministic choice of real images."""
    record = next(record for record in found.selections if record.method == name)
    return record.deterministic and name in params.methods and params.pools[record.pool].source == "real"


def _galleries(
    params: Params, root: Path, manifests: dict[str, artifacts.Manifest], classes: list[str]
) -> dict[str, page.Picture]:
    """One picture per class with the images of every row (paper Fig. 9-20); none where there are many classes."""
    if len(classes) > figures.MAX_CLASSES:
        return {}
    size = {"classes": len(classes), "count": params.report.gallery_images}
    stacks = {name: artifacts.read_images(root, manifest, **size) for name, manifest in manifests.items()}
    made = {}
    for index, name in enumerate(classes):
        own = {method: stack[index] for method, stack in stacks.items()}
        made[name] = page.Picture(*(figures.gallery(own, theme=theme) for theme in figures.THEMES))
    return made


def _studies(params: Params, root: Path) -> list[page.StudyPart]:
    """The studies of params.yaml that were run on this data set; a picture of the same numbers is drawn once."""
    made, dataset = [], params.data.name or params.data.source
    frames = {name: results.read(root, name, study.labels) for name, study in params.studies.items()}
    found = {name: frame[frame["data"] == dataset] for name, frame in frames.items() if dataset in set(frame["data"])}
    if not found:
        return []
    with scratch.workspace(root, "report", scratch.fingerprint([], [], code.digest("report")), log.warning) as work:
        for name, frame in found.items():
            study = params.studies[name]
            facts = [name, study.model_dump(mode="json"), frame.to_csv()]
            pictures = [_drawn_once(work, facts, partial(studies.draw, study, frame, study.labels))]
            if results.has_plane(root, name, list(frame["key"])):
                points = results.read_plane(root, name)
                pictures.append(
                    _drawn_once(work, [name, points.to_csv()], partial(figures.tsne, points, real=tables.REAL))
                )
            said = sentences.sentences(study, frame, study.labels)
            made.append(page.StudyPart(name, study.claim, said, pictures))
        work.finish()
    return made


def _drawn_once(work: scratch.Workspace, facts: list[Any], draw: Callable[..., bytes]) -> page.Picture:
    """The picture that ``facts`` decide, in every theme, kept for the next report."""
    drawn = []
    for number, theme in enumerate(figures.THEMES):
        part = f"{scratch.short([*facts, number])}.png"
        if not work.has(part):
            files.write_bytes(work.path / part, draw(theme=theme))
        work.keep(part)
        drawn.append((work.path / part).read_bytes())
    return page.Picture(*drawn)


def _results(params: Params, root: Path) -> artifacts.Results:
    rows = {}
    for name in params.eval.methods:
        method, refined = params.methods.get(name), params.refined.get(name)
        rows[name] = (method.pool, method.selection) if method else (refined.start, refined.by)
    return artifacts.read_results(root, **{**params.eval.model_dump(), "methods": rows})


def _recipe(params: Params, name: str) -> page.Recipe:
    start, refined = params.lineage(name)
    method = params.methods[start]
    pool = params.pools[method.pool].model_dump(include={"source", "adaptation", "guide", "sampler"})
    steps = ", ".join(params.refined[row].by for row in refined) or page.NOTHING
    return page.Recipe(name, method.pool, **pool, selection=method.selection, refined=steps)


def _curves(params: Params, root: Path) -> pd.DataFrame:
    trained = [name for name, adaptation in params.adaptations.items() if adaptation.loss != "none"]
    paths = {name: f"data/adapted/{name}/curve.csv" for name in trained}
    if params.generator.source == "train":
        paths = {"generator": "data/generator/curve.csv", **paths}
    return tables.training_curves({name: artifacts.read_curve(root, Path(path)) for name, path in paths.items()})
