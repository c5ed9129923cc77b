"""The commands that bring and take away: captions, exports."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ims3core.cli.stages import ROOT, chosen, parameters
from ims3core.errors import ParameterError

app = typer.Typer()
PANEL = "Bring and take away"
Method = Annotated[str, typer.Argument(help="Row of methods or refinements, for example ims3.")]
Ipc = Annotated[int, typer.Argument(help="Images per class.")]
Target = Annotated[Path, typer.Argument(help="New folder.")]
Draw = Annotated[int, typer.Option(help="Which of the drawn sets.")]


@app.command("caption", rich_help_panel=PANEL, epilog="Example: ims3 caption ./captioner captions.csv")
def caption(
    model: Annotated[str, typer.Argument(help="Of the task image-text-to-text: a hub id or a folder.")],
    target: Annotated[Path, typer.Argument(help="The table file,caption; images that are in it are left alone.")],
) -> None:
    """Captions of the training images, for the source text_to_image."""
    parameters()
    track = partial(importlib.import_module("ims3core.pipeline.progress").track, label="captions")
    count = importlib.import_module("ims3core.ingest.captions").write(ROOT, model, target, progress=track)
    typer.echo(f"{count} new captions in {target}")


exports = typer.Typer(help="Write a product for others: a generator as DiTPipeline, a distilled set as parquet.")
app.add_typer(exports, name="export", rich_help_panel=PANEL)


@exports.command("generator", epilog="Example: ims3 export generator im ./generator-im")
def export_generator(
    adaptation: Annotated[str, typer.Argument(help="Row of adaptations, for example im.")],
    target: Target,
    phase: Annotated[int | None, typer.Option(min=0, help="Of a row that was fine-tuned in phases.")] = None,
) -> None:
    """The adapted generator as a DiTPipeline folder, DiffFit scales folded in."""
    params = parameters()
    if adaptation not in params.adaptations:
        raise ParameterError(f"adaptations: {adaptation!r} is unknown; known: {', '.join(params.adaptations)}")
    importlib.import_module("ims3core.export").export_generator(ROOT, adaptation, target, phase)
    typer.echo(f"{target} holds the generator adapted by {adaptation}")


@exports.command("set", epilog="Example: ims3 export set ims3 10 ./ims3-10")
def export_set(
    method: Method, ipc: Ipc, target: Target, draw: Draw = 0,
    held_out: Annotated[bool, typer.Option(help="The real images that students are scored on, beside it.")] = True,
) -> None:  # fmt: skip
    """A distilled set as image folders with the test images beside it, and as parquet with a dataset card."""
    _check_row(method)
    split = parameters().eval.split if held_out else None
    importlib.import_module("ims3core.export").export_set(ROOT, method, ipc, draw, target, held_out=split)
    typer.echo(f"{target} holds {method}, IPC {ipc}, draw {draw}")


def _check_row(name: str) -> None:
    """Raises a ParameterError unless ``name`` is a row that has distilled sets."""
    params = parameters()
    chosen([*params.methods, *params.refinements], name, "methods")


@exports.command("ddranking", epilog="Example: ims3 export ddranking ims3 10 ./ims3-10-ddranking")
def export_ddranking(method: Method, ipc: Ipc, target: Target, draw: Draw = 0) -> None:
    """A distilled set as DD-Ranking reads it: an image folder in the order of the classes, and a configuration."""
    _check_row(method)
    importlib.import_module("ims3core.export").export_ddranking(ROOT, method, ipc, draw, target)
    typer.echo(f"{target} holds {method}, IPC {ipc}, draw {draw}; LabelRobustScoreHard(Config('{target}/config.yaml'))")
