"""The commands that run more than a stage: profiles, other checkouts, studies."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from ims3core.cli.stages import ROOT, chosen, parameters
from ims3core.pipeline import profiles
from ims3core.pipeline.places import Place

app = typer.Typer()
PANEL = "Run"
Workers = Annotated[int | None, typer.Option(help="Processes on this machine; without any option one a GPU, or one.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a scheduler of Dask that runs, tcp://...:8786.")]
Cluster = Annotated[Path | None, typer.Option(help="File of dask-jobqueue: Slurm, PBS, LSF, SGE and others.")]
Patience = Annotated[float, typer.Option(help="Minutes to wait for a worker while there is none.")]


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 new birds ~/pictures/birds --ipc 1 10 --budget 30m")
def new(
    name: Annotated[str, typer.Argument(help="Of the profile to write, for example birds.")],
    folder: Annotated[str, typer.Argument(help="Class folders of pictures, a folder of parquet files, or an npz.")],
    more: Annotated[
        list[str] | None, typer.Argument(help="Further numbers of --ipc, and key=value as for `ims3 use`.")
    ] = None,
    ipc: Annotated[int | None, typer.Option(min=1, help="Images per class; 1 10 without it.")] = None,
    budget: Annotated[str, typer.Option(help="Time that everything may take here: 30m, 1h30m.")] = "30m",
    row: Annotated[str | None, typer.Option(help="Row that the page features; ims3_plus without it.")] = None,
    generate: Annotated[
        bool | None,
        typer.Option("--generate/--no-generate", help="With a generator: one that knows the classes, or one's own."),
    ] = None,
    fewer: Annotated[bool, typer.Option("--fewer", help="Lower an IPC that a class does not have.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the profile and params.yaml.")] = False,
) -> None:  # fmt: skip
    """From a folder of pictures to a profile that fits a time budget, and to params.yaml."""
    command = importlib.import_module("ims3core.planning.begin")
    words = more or []
    wish = command.Wish(
        name, folder, command.images_per_class(ipc, [word for word in words if "=" not in word]),
        command.budget_seconds(budget), row, generate, fewer,
        profiles.parsed([word for word in words if "=" in word]),
    )  # fmt: skip
    command.check_name(ROOT, name, force=force)
    beginning = command.Beginning(ROOT, wish)
    beginning.write(force=force)
    for line in beginning.lines():
        typer.echo(line)


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


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 repro students --workers 2")
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages of dvc.yaml; everything without one.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    patience: Patience = 60.0,
) -> None:
    r"""Reproduce like `dvc repro`, on workers that make the pieces of stages side by side; needs ims3\[cluster]."""
    reproduce = importlib.import_module("ims3core.pipeline.repro")
    params, place = parameters(), reproduce.Place(workers, scheduler, cluster, patience)
    plan = importlib.import_module("ims3core.planning.priorities").plan
    typer.echo(reproduce.run(ROOT, params, targets or [], place, lambda: plan(params, ROOT)))


def asked(workers: int | None, scheduler: str | None, cluster: Path | None, patience: float) -> Place | None:
    """Where a run shall be; None: DVC alone, in this process."""
    if workers is None and scheduler is None and cluster is None:
        return None
    place = Place(workers, scheduler, cluster and cluster.resolve(), patience)
    place.check()
    return place


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 run digits-all")
def run(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits-all.")],
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    patience: Patience = 60.0,
) -> None:
    """Run another profile in a clone of its own; leaves its tables, image grid and page in metrics/profiles."""
    place = asked(workers, scheduler, cluster, patience)
    for line in importlib.import_module("ims3core.pipeline.checkouts").run(ROOT, profile, place):
        typer.echo(line)


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 study ablation")
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies of studies.yaml; without one they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    patience: Patience = 60.0,
) -> None:
    """Run studies of the paper as DVC experiments; leaves metrics/studies/<name>.csv and .png."""
    params, command = parameters(), importlib.import_module("ims3core.studies.command")
    known = list(importlib.import_module("ims3core.studies.definitions").read(ROOT))
    for name in names or []:
        chosen(known, name, "studies.yaml")
    if not names and not every:
        command.show(ROOT, params)
    for name in known if every else names or []:
        for line in command.run(ROOT, name, params, asked(workers, scheduler, cluster, patience)):
            typer.echo(line)
