"""The commands that look: rows and entries, costs, times, results, the machine."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from ims3core.cli.stages import ROOT, chosen, parameters
from ims3core.errors import ParameterError
from ims3core.params import entries
from ims3core.pipeline import timings

app = typer.Typer()
PANEL = "Look"


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 methods")
def methods() -> None:
    """Print the rows and what each is made of, then every axis with its entries."""
    from rich.console import Console
    from rich.table import Table

    params = parameters()
    rows = Table(
        "row", "source", "adaptation", "guide", "sampler", "selection", "compared", title="rows of params.yaml"
    )
    for name, method in params.methods.items():
        pool = params.pools[method.pool]
        compared = "yes" if name in params.eval.methods else "no"
        rows.add_row(name, pool.source, pool.adaptation, pool.guide, pool.sampler, method.type, compared)
    for name, refinement in params.refinements.items():
        compared = "yes" if name in params.eval.methods else "no"
        rows.add_row(name, f"the sets of {refinement.start}, refined by {refinement.type}", "", "", "", "", compared)
    table = Table("axis", "entry", "what it is", title="axes: folders of ims3core/axes, an entry is a class in a file")
    for axis in entries.AXES:
        for name in entries.names(axis):
            table.add_row(axis, name, entries.summary(axis, name))
        table.add_section()
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(rows)
    console.print(table)


@app.command("plan", rich_help_panel=PANEL, epilog="Example: ims3 plan --tflops 400 --memory 80")
def show_plan(
    tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of the machine to plan for; measured here without it.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GB of memory there: stages that need more are marked.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine again; kept if it is idle.")] = False,
) -> None:
    """Print what every stage will cost with the current parameters; loads no weights."""
    params = parameters()
    if tflops is not None and tflops <= 0:
        raise ParameterError(f"--tflops: found {tflops}, wanted a positive number")
    table = importlib.import_module("ims3core.planning.table")
    table.show(params, ROOT, tflops=tflops, memory=memory, measure=measure)


@app.command("timings", rich_help_panel=PANEL, epilog="Example: ims3 timings")
def show_timings() -> None:
    """Print wall time and peak memory of the latest run of every stage on this machine."""
    records = timings.read(ROOT)
    for record in records:
        gpu = f"{record['gpu_mib']:6d} MiB GPU" if "gpu_mib" in record else ""
        workers = f" ({record['workers']:.1f} s of it on workers)" if "workers" in record else ""
        name = f"{record['stage']}{workers}"
        typer.echo(f"{record['seconds']:9.1f} s {record['peak_mib']:6d} MiB  {gpu}  {record['finished']}  {name}")
    typer.echo(f"{sum(record['seconds'] for record in records):9.1f} s in {len(records)} stages")


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 results digits digits-all")
def results(
    profiles: Annotated[
        list[str] | None, typer.Argument(help="Folders of metrics/profiles; without one all of them.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="The protocol that is shown.")] = "steps",
) -> None:
    """Print the accuracies of several profiles side by side, as Markdown."""
    overview = importlib.import_module("ims3core.report.overview")
    home = ROOT / "metrics/profiles"
    known = sorted(path.parent.name for path in home.glob("*/accuracy.csv"))
    if not known:
        raise ParameterError(f"{home}: no profile was run yet; `ims3 run NAME` does")
    names = [chosen(known, name, "profiles") for name in profiles] if profiles else [known]
    runs = {name: overview.read(home / name / "accuracy.csv") for each in names for name in each}
    if not profiles:
        others = [name for name, frame in runs.items() if protocol not in set(frame["protocol"])]
        if others and len(others) < len(runs):
            typer.echo(f"not run under {protocol}: {', '.join(others)}", err=True)
            runs = {name: frame for name, frame in runs.items() if name not in others}
    typer.echo(overview.markdown(runs, protocol=protocol))


@app.command(rich_help_panel=PANEL, epilog="Example: ims3 doctor")
def doctor() -> None:
    """Print what one pastes into an issue: versions, device, DVC, git, disk, conflicts; mends a damaged lock of DVC."""
    report = importlib.import_module("ims3core.pipeline.doctor")
    fault = importlib.import_module("ims3core.pipeline.mending").FAULT
    faults = 0
    for line in report.examine(ROOT):
        faults += line.startswith(fault)
        typer.echo(line)
    if faults:
        typer.echo(f"{faults} line{'s' * (faults > 1)} marked with {fault.strip()}: something to do")
        raise typer.Exit(1)
