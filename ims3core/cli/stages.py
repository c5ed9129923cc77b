"""The commands that dvc.yaml calls: one per stage, for one row or all."""

from __future__ import annotations

import importlib
import itertools
import os
from pathlib import Path
from typing import Annotated

import typer

from ims3core.errors import ParameterError
from ims3core.params import Params, load
from ims3core.pipeline import launching

app = typer.Typer()
ROOT = Path()
PANEL = "Pipeline stages"
Row = Annotated[str | None, typer.Argument(help="One row of the table in params.yaml; all rows without it.")]


def parameters() -> Params:
    """The checked parameters of this folder."""
    return load(ROOT / "params.yaml")


def chosen(known: list[str], name: str | None, key: str) -> list[str]:
    """``name``, or all of ``known`` without it."""
    if name is not None and name not in known:
        raise ParameterError(f"{key}: {name!r} is unknown; known: {', '.join(known)}")
    return known if name is None else [name]


def run_stage(stage: str, params: Params, *arguments: object) -> None:
    """Runs one row of a stage, under ``compute.launch`` where processes can share it."""
    harness = importlib.import_module("ims3core.pipeline.harness")
    launcher = None if {"WORLD_SIZE", launching.LAUNCHED} & os.environ.keys() else params.compute.launch
    if launcher and harness.find_stage(stage).sharing != "alone":
        launching.launch(launcher, [stage, *map(str, arguments)])
    elif launching.UNITS_ONLY in os.environ:
        harness.make_units(stage, params, ROOT, arguments)
    else:
        harness.run(stage, params, ROOT, arguments)


def run_rows(stage: str, row: str | None, table: str) -> None:
    """Runs a stage for ``row``, or for every row of the section ``table``."""
    params = parameters()
    for name in chosen(list(getattr(params, table)), row, table):
        run_stage(stage, params, name)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 prepare")
def prepare() -> None:
    """Read the data source; write splits and the class table."""
    run_stage("prepare", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 generator")
def generator() -> None:
    """Train (or fetch) the latent diffusion model as a DiTPipeline directory."""
    run_stage("generator", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 encoder")
def encoder() -> None:
    """Train (or fetch) the frozen feature encoder and teacher."""
    run_stage("encoder", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 teacher")
def teacher() -> None:
    """Train (or take) the classifier that gives soft labels."""
    run_stage("teacher", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 latents")
def latents() -> None:
    """Encode the real training images with the VAE, once."""
    run_stage("latents", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 guides none")
def guides(row: Row = None) -> None:
    """Prepare what samplers will know of the real latents."""
    run_rows("guides", row, "guides")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 finetune im")
def finetune(row: Row = None) -> None:
    """Fine-tune the generator, by Inversion-Matching (Eq. 1-7) or another loss."""
    run_rows("finetune", row, "adaptations")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 candidates dit")
def candidates(row: Row = None) -> None:
    """Generate a pool of candidate images, or index the real ones."""
    run_rows("candidates", row, "pools")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 features dit")
def features(row: Row = None) -> None:
    """Embed a pool with the frozen encoder."""
    run_rows("features", row, "pools")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 centroids real")
def centroids(row: Row = None) -> None:
    """Compute class centroids (Eq. 8)."""
    run_rows("centroids", row, "centroids")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 select ims3")
def select(row: Row = None) -> None:
    """Select distilled sets from a pool (Eq. 9-11)."""
    run_rows("select", row, "methods")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 refine ims3_plus")
def refine(row: Row = None) -> None:
    """Optimise the distilled sets of another row further."""
    run_rows("refine", row, "refinements")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 labels steps")
def labels(protocol: Row = None) -> None:
    """Write what students of a protocol learn from."""
    params = parameters()
    for name in chosen(params.eval.protocols, protocol, "eval.protocols"):
        run_stage("labels", params, name)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 students ims3 10 convnet steps")
def students(
    method: Annotated[str | None, typer.Argument(help="Row of methods or refinements; the grid without it.")] = None,
    ipc: Annotated[int | None, typer.Argument(help="Images per class.")] = None,
    student: Annotated[str | None, typer.Argument(help="An entry of eval.students.")] = None,
    protocol: Annotated[str | None, typer.Argument(help="An entry of eval.protocols.")] = None,
) -> None:
    """Train students on distilled sets and score them."""
    params = parameters()
    grid, words = params.eval, (method, ipc, student, protocol)
    every = itertools.product(grid.methods, grid.ipc, grid.students, grid.protocols)
    cells = [cell for cell in every if all(w is None or w == c for w, c in zip(words, cell, strict=True))]
    if not cells:
        found = " ".join(str(word) for word in words if word is not None)
        raise ParameterError(
            f"students: found {found}; eval has methods {', '.join(grid.methods)}, ipc {grid.ipc}, "
            f"students {', '.join(grid.students)}, protocols {', '.join(grid.protocols)}"
        )
    for cell in cells:
        run_stage("students", params, *cell)


@app.command("full-data", rich_help_panel=PANEL, epilog="Example: ims3 full-data convnet steps")
def full_data(student: Row = None, protocol: Row = None) -> None:
    """Train students on all real training images: the upper bound."""
    params = parameters()
    for name in chosen(params.eval.students, student, "eval.students"):
        for rules in chosen(params.eval.protocols, protocol, "eval.protocols"):
            run_stage("full_data", params, name, rules)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 diagnose")
def diagnose(row: Row = None) -> None:
    """Measure something of a generator beside its images."""
    run_rows("diagnose", row, "diagnostics")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 coverage")
def coverage() -> None:
    """Measure how pools and sets cover the real images."""
    run_stage("coverage", parameters())


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 report --markdown")
def report(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result table as Markdown instead.")] = False,
) -> None:
    """Write accuracy tables, plots and reports/index.html."""
    params = parameters()
    if markdown:
        typer.echo(importlib.import_module("ims3core.report.data").markdown(params, ROOT))
    else:
        run_stage("report", params)
