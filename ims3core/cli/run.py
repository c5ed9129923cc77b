"""The commands that run more than a stage: profiles, other checkouts, studies."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from ims3core.cli.stages import ROOT, chosen, parameters
from ims3core.pipeline import profiles

app = typer.Typer()
PANEL = "Run"


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 use digits s3.alpha=0.5")
def use(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits.")],
    changes: Annotated[list[str] | None, typer.Argument(help="key=value, for example s3.alpha=0.5.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a params.yaml with changes of your own.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the parameters, write nothing.")] = False,
) -> None:
    """Write params.yaml from a profile; DVC's run cache brings earlier results back."""
    if show:
        words = changes or []
        typer.echo(profiles.text(profiles.read(ROOT, profile, profiles.parsed(words)), profile, words), nl=False)
    else:
        typer.echo(profiles.use(ROOT, profile, changes or [], force=force))


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 diff digits")
def diff(
    profile: Annotated[
        str | None, typer.Argument(help="A profile; without one that from which params.yaml was written.")
    ] = None,
) -> None:
    """Print what params.yaml changes of a profile."""
    for line in profiles.diff(ROOT, profile):
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
        list[str] | None, typer.Argument(help="Studies of studies.yaml; without one they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Run studies of the paper as DVC experiments; leaves metrics/studies/<name>.csv and .png."""
    params, command = parameters(), importlib.import_module("ims3core.studies.command")
    known = list(importlib.import_module("ims3core.studies.definitions").read(ROOT))
    for name in names or []:
        chosen(known, name, "studies.yaml")
    if not names and not every:
        command.show(ROOT, params)
    for name in known if every else names or []:
        for line in command.run(ROOT, name, params):
            typer.echo(line)
