"""The commands that run more than a stage: profiles, other checkouts, studies."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from ims3core.cli.stages import ROOT, chosen, parameters
from ims3core.pipeline import profiles

app = typer.Typer()
PANEL = "Run"


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 use digits")
def use(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a params.yaml with changes of your own.")] = False,
) -> None:
    """Write params.yaml from a profile; DVC's run cache brings earlier results back."""
    for line in profiles.use(ROOT, profile, force=force):
        typer.echo(line)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 run digits-all")
def run(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits-all.")],
) -> None:
    """Run another profile in a clone of its own; leaves its tables, image grid and page in metrics/profiles."""
    for line in importlib.import_module("ims3core.pipeline.checkouts").run(ROOT, profile):
        typer.echo(line)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 study ablation")
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies of params.yaml; without one they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Run studies of the paper as DVC experiments; leaves metrics/studies/<name>.csv and .png."""
    params = parameters()
    for name in names or []:
        chosen(list(params.studies), name, "studies")
    command = importlib.import_module("ims3core.studies.command")
    if not names and not every:
        command.show(ROOT, params)
    for name in params.studies if every else names or []:
        for line in command.run(ROOT, name, params):
            typer.echo(line)
