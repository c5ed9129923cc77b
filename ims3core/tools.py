"""The commands of ``ims3`` that are no stage: profiles, studies, lists, costs, captions, exports."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ims3core.params import load
from ims3core.shell import axes, profiles, timings
from ims3core.shell.errors import ParameterError

ROOT = Path()
tools = typer.Typer()


def chosen(known: list[str], wanted: str | None, key: str) -> list[str]:
    """``wanted``, or all of ``known`` without it."""
    if wanted is not None and wanted not in known:
        raise ParameterError(f"{key}: {wanted!r} is unknown; known: {', '.join(known)}")
    return known if wanted is None else [wanted]


@tools.command()
def use(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a params.yaml with changes of your own.")] = False,
) -> None:
    """Write params.yaml from a profile; DVC's run cache brings earlier results back."""
    for line in profiles.use(ROOT, profile, force=force):
        typer.echo(line)


@tools.command()
def beside(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits-all.")],
) -> None:
    """Run another profile in a clone beside this one; leaves its tables, image grid and page in metrics/beside."""
    for line in importlib.import_module("ims3core.shell.beside").run(ROOT, profile):
        typer.echo(line)


@tools.command()
def results(
    profiles: Annotated[
        list[str] | None, typer.Argument(help="Folders of metrics/beside; without one all of them.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="The protocol that is shown.")] = "steps",
) -> None:
    """Print the accuracies of several profiles side by side, as Markdown."""
    overview = importlib.import_module("ims3core.report.overview")
    home = ROOT / "metrics/beside"
    known = sorted(path.parent.name for path in home.glob("*/accuracy.csv"))
    if not known:
        raise ParameterError(f"{home}: no profile was run beside this one yet; `ims3 beside NAME` does")
    names = [chosen(known, name, "profiles") for name in profiles] if profiles else [known]
    runs = {name: overview.read(home / name / "accuracy.csv") for each in names for name in each}
    if not profiles:
        others = [name for name, frame in runs.items() if protocol not in set(frame["protocol"])]
        if others and len(others) < len(runs):
            typer.echo(f"not run under {protocol}: {', '.join(others)}", err=True)
            runs = {name: frame for name, frame in runs.items() if name not in others}
    typer.echo(overview.markdown(runs, protocol=protocol))


@tools.command()
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies of params.yaml; without one they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Run studies of the paper as DVC experiments; leaves metrics/studies/<name>.csv and .png."""
    params = load(ROOT / "params.yaml")
    for name in names or []:
        chosen(list(params.studies), name, "studies")
    run = importlib.import_module("ims3core.studies.command")
    if not names and not every:
        run.show(ROOT, params)
    for name in params.studies if every else names or []:
        for line in run.run(ROOT, name, params):
            typer.echo(line)


@tools.command()
def methods() -> None:
    """Print the rows and what each is made of, then every axis with its entries."""
    from rich.console import Console
    from rich.table import Table

    params = load(ROOT / "params.yaml")
    rows = Table(
        "row", "source", "adaptation", "guide", "sampler", "selection", "compared", title="rows of params.yaml"
    )
    for name, row in params.methods.items():
        pool = params.pools[row.pool]
        compared = "yes" if name in params.eval.methods else "no"
        rows.add_row(name, pool.source, pool.adaptation, pool.guide, pool.sampler, row.selection, compared)
    for name, row in params.refined.items():
        compared = "yes" if name in params.eval.methods else "no"
        rows.add_row(name, f"the sets of {row.start}, refined by {row.by}", "", "", "", "", compared)
    entries = Table("axis", "entry", "what it is", title="axes: folders of ims3core, an entry is a file")
    for axis in axes.NAMES:
        for name in axes.entries(axis):
            entries.add_row(axis, name, axes.summary(axis, name))
        entries.add_section()
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(rows)
    console.print(entries)


@tools.command("timings")
def show_timings() -> None:
    """Print wall time and peak memory of the latest run of every stage on this machine."""
    records = timings.read(ROOT)
    for record in records:
        gpu = f"{record['gpu_mib']:6d} MiB GPU" if "gpu_mib" in record else ""
        typer.echo(
            f"{record['seconds']:9.1f} s {record['peak_mib']:6d} MiB  {gpu}  {record['finished']}  {record['stage']}"
        )
    typer.echo(f"{sum(record['seconds'] for record in records):9.1f} s in {len(records)} stages")


@tools.command("plan")
def show_plan(
    tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of the machine to plan for; measured here without it.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GB of memory there: stages that need more are marked.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure this machine again; kept from then on.")] = False,
) -> None:
    """Print what every stage will cost with the current parameters; loads no weights."""
    params = load(ROOT / "params.yaml")
    if tflops is not None and tflops <= 0:
        raise ParameterError(f"--tflops: found {tflops}, wanted a positive number")
    importlib.import_module("ims3core.planning.table").show(
        params, ROOT, tflops=tflops, memory=memory, measure=measure
    )  # fmt: skip


@tools.command("caption")
def caption(
    model: Annotated[str, typer.Argument(help="Of the task image-text-to-text: a hub id or a folder.")],
    target: Annotated[Path, typer.Argument(help="The table file,caption; images that are in it are left alone.")],
) -> None:
    """Captions of the training images, for the source text_to_image."""
    load(ROOT / "params.yaml")
    track = partial(importlib.import_module("ims3core.shell.progress").track, label="captions")
    count = importlib.import_module("ims3core.captions").write(ROOT, model, target, progress=track)
    typer.echo(f"{count} new captions in {target}")


exports = typer.Typer(help="Write a product for others: a generator as DiTPipeline, a distilled set as parquet.")
tools.add_typer(exports, name="export")


@exports.command("generator")
def export_generator(
    adaptation: Annotated[str, typer.Argument(help="Row of adaptations, for example im.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    phase: Annotated[int | None, typer.Option(min=0, help="Of a row that was fine-tuned in phases.")] = None,
) -> None:
    """The adapted generator as a DiTPipeline folder, DiffFit scales folded in."""
    params = load(ROOT / "params.yaml")
    if adaptation not in params.adaptations:
        raise ParameterError(f"adaptations: {adaptation!r} is unknown; known: {', '.join(params.adaptations)}")
    importlib.import_module("ims3core.export").export_generator(ROOT, adaptation, target, phase)
    typer.echo(f"{target} holds the generator adapted by {adaptation}")


@exports.command("set")
def export_set(
    method: Annotated[str, typer.Argument(help="Row of methods, for example ims3.")],
    ipc: Annotated[int, typer.Argument(help="Images per class.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    draw: Annotated[int, typer.Option(help="Which of the drawn sets.")] = 0,
) -> None:
    """A distilled set as parquet with a dataset card (Hugging Face layout)."""
    importlib.import_module("ims3core.export").export_set(ROOT, method, ipc, draw, target)
    typer.echo(f"{target} holds {method}, IPC {ipc}, draw {draw}")


@exports.command("ddranking")
def export_ddranking(
    method: Annotated[str, typer.Argument(help="Row of methods or refined, for example ims3.")],
    ipc: Annotated[int, typer.Argument(help="Images per class.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    draw: Annotated[int, typer.Option(help="Which of the drawn sets.")] = 0,
) -> None:
    """A distilled set as DD-Ranking reads it: an image folder in the order of the classes, and a configuration."""
    load(ROOT / "params.yaml")
    importlib.import_module("ims3core.export").export_ddranking(ROOT, method, ipc, draw, target)
    typer.echo(f"{target} holds {method}, IPC {ipc}, draw {draw}; LabelRobustScoreHard(Config('{target}/config.yaml'))")
