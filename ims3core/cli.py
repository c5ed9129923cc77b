"""The command line ``ims3``: one small command per stage, plus helpers.

The only module that knows Typer, params.yaml and ``stages``. A stage module, and with it torch, is
imported inside its command: ``ims3 --help`` loads none of the heavy packages.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import logging
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ims3core.params import Params, load
from ims3core.shell import axes, profiles, timings
from ims3core.shell.errors import Ims3Error, ParameterError

app = typer.Typer(
    name="ims3",
    help="Diffusion-based dataset distillation: one command per DVC stage (`dvc repro` runs them all).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ROOT = Path()
LAUNCHED = "IMS3_LAUNCHED"  # set for the processes of a launcher, also one that starts a single process
SHARED = (
    "latents",
    "guides",
    "finetune",
    "candidates",
    "features",
    "refine",
)  # stages that several processes can share
Row = Annotated[str | None, typer.Argument(help="One row of the table in params.yaml; all rows without it.")]


def run_stage(module: str, arguments: tuple = (), *, params: Params, function: str = "run") -> None:
    """Imports ``stages.<module>``, runs it and logs its time."""
    name = module if function == "run" else function.removeprefix("run_")
    if params.compute.launch and module in SHARED and not {"WORLD_SIZE", LAUNCHED} & os.environ.keys():
        _launch(params.compute.launch, [module.replace("_", "-"), *map(str, arguments)])
        return
    with timings.timed(ROOT, "-".join([name, *map(str, arguments)])):
        stage = importlib.import_module(f"stages.{module}")
        getattr(stage, function)(params, ROOT, *arguments)


def _launch(launcher: str, arguments: list[str]) -> None:
    """Runs this command under a launcher of several processes, such as ``accelerate launch``."""
    command = [*shlex.split(launcher), "-m", "ims3core", *arguments]
    try:
        code = subprocess.run(command, check=False, env=os.environ | {LAUNCHED: "1"}).returncode
    except FileNotFoundError as error:
        raise ParameterError(f"compute.launch: {command[0]!r}: no such command") from error
    if code:
        raise ParameterError(f"compute.launch: {shlex.join(command)} ended with code {code}; see the lines above")


def run_rows(module: str, row: str | None, table: str) -> None:
    """Runs a stage for ``row``, or for every row of the section ``table``."""
    params = load(ROOT / "params.yaml")
    for name in _chosen(list(getattr(params, table)), row, table):
        run_stage(module, (name,), params=params)


@app.command()
def prepare() -> None:
    """Read the data source; write splits and the class table."""
    run_stage("prepare", params=load(ROOT / "params.yaml"))


@app.command()
def generator() -> None:
    """Train (or fetch) the latent diffusion model as a DiTPipeline directory."""
    run_stage("generator", params=load(ROOT / "params.yaml"))


@app.command()
def encoder() -> None:
    """Train (or fetch) the frozen feature encoder and teacher."""
    run_stage("encoder", params=load(ROOT / "params.yaml"))


@app.command()
def teacher() -> None:
    """Train (or take) the classifier that gives soft labels."""
    run_stage("teacher", params=load(ROOT / "params.yaml"))


@app.command()
def latents() -> None:
    """Encode the real training images with the VAE, once."""
    run_stage("latents", params=load(ROOT / "params.yaml"))


@app.command()
def guides(row: Row = None) -> None:
    """Prepare what samplers will know of the real latents."""
    run_rows("guides", row, "guides")


@app.command()
def finetune(row: Row = None) -> None:
    """Fine-tune the generator, by Inversion-Matching (Eq. 1-7) or another loss."""
    run_rows("finetune", row, "adaptations")


@app.command()
def candidates(row: Row = None) -> None:
    """Generate a pool of candidate images, or index the real ones."""
    run_rows("candidates", row, "pools")


@app.command()
def features(row: Row = None) -> None:
    """Embed a pool with the frozen encoder."""
    run_rows("features", row, "pools")


@app.command()
def centroids(row: Row = None) -> None:
    """Compute class centroids (Eq. 8)."""
    run_rows("centroids", row, "centroids")


@app.command()
def select(row: Row = None) -> None:
    """Select distilled sets from a pool (Eq. 9-11)."""
    run_rows("select", row, "methods")


@app.command()
def refine(row: Row = None) -> None:
    """Optimise the distilled sets of another row further."""
    run_rows("refine", row, "refined")


@app.command()
def labels(protocol: Row = None) -> None:
    """Write what students of a protocol learn from."""
    params = load(ROOT / "params.yaml")
    for name in _chosen(params.eval.protocols, protocol, "eval.protocols"):
        run_stage("labels", (name,), params=params)


@app.command()
def students(
    method: Annotated[str | None, typer.Argument(help="Row of methods or refined; the grid without it.")] = None,
    ipc: Annotated[int | None, typer.Argument(help="Images per class.")] = None,
    student: Annotated[str | None, typer.Argument(help="An entry of eval.students.")] = None,
    protocol: Annotated[str | None, typer.Argument(help="An entry of eval.protocols.")] = None,
) -> None:
    """Train students on distilled sets and score them."""
    params = load(ROOT / "params.yaml")
    grid, wanted = params.eval, (method, ipc, student, protocol)
    every = itertools.product(grid.methods, grid.ipc, grid.students, grid.protocols)
    cells = [cell for cell in every if all(w is None or w == c for w, c in zip(wanted, cell, strict=True))]
    if not cells:
        found = " ".join(str(word) for word in wanted if word is not None)
        raise ParameterError(
            f"students: found {found}; eval has methods {', '.join(grid.methods)}, ipc {grid.ipc}, "
            f"students {', '.join(grid.students)}, protocols {', '.join(grid.protocols)}"
        )
    for cell in cells:
        run_stage("students", cell, params=params)


@app.command("full-data")
def full_data(student: Row = None, protocol: Row = None) -> None:
    """Train students on all real training images: the upper bound."""
    params = load(ROOT / "params.yaml")
    for name in _chosen(params.eval.students, student, "eval.students"):
        for rules in _chosen(params.eval.protocols, protocol, "eval.protocols"):
            run_stage("students", (name, rules), params=params, function="run_full_data")


def _chosen(known: list[str], wanted: str | None, key: str) -> list[str]:
    """``wanted``, or all of ``known`` without it."""
    if wanted is not None and wanted not in known:
        raise ParameterError(f"{key}: {wanted!r} is unknown; known: {', '.join(known)}")
    return known if wanted is None else [wanted]


@app.command()
def probe(row: Row = None) -> None:
    """Measure something of a generator beside its images."""
    run_rows("probe", row, "probes")


@app.command()
def coverage() -> None:
    """Measure how pools and sets cover the real images."""
    run_stage("coverage", params=load(ROOT / "params.yaml"))


@app.command()
def report(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result table as Markdown instead.")] = False,
) -> None:
    """Write accuracy tables, plots and reports/index.html."""
    params = load(ROOT / "params.yaml")
    if markdown:
        typer.echo(importlib.import_module("stages.report").markdown(params, ROOT))
    else:
        run_stage("report", params=params)


@app.command()
def use(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a params.yaml with changes of your own.")] = False,
) -> None:
    """Write params.yaml from a profile; DVC's run cache brings earlier results back."""
    for line in profiles.use(ROOT, profile, force=force):
        typer.echo(line)


@app.command()
def beside(
    profile: Annotated[str, typer.Argument(help="Name of a file in profiles/, for example digits-all.")],
) -> None:
    """Run another profile in a clone beside this one; leaves metrics/<profile>.csv, .md and .html."""
    for line in importlib.import_module("ims3core.shell.beside").run(ROOT, profile):
        typer.echo(line)


@app.command()
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies of params.yaml; without one they are listed.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Run studies of the paper as DVC experiments; leaves metrics/studies/<name>.csv and .png."""
    params = load(ROOT / "params.yaml")
    for name in names or []:
        _chosen(list(params.studies), name, "studies")
    run = importlib.import_module("ims3core.studies.command")
    if not names and not every:
        run.show(ROOT, params)
    for name in params.studies if every else names or []:
        for line in run.run(ROOT, name, params):
            typer.echo(line)


@app.command()
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


@app.command("timings")
def show_timings() -> None:
    """Print wall time and peak memory of the latest run of every stage on this machine."""
    records = timings.read(ROOT)
    for record in records:
        gpu = f"{record['gpu_mib']:6d} MiB GPU" if "gpu_mib" in record else ""
        typer.echo(
            f"{record['seconds']:9.1f} s {record['peak_mib']:6d} MiB  {gpu}  {record['finished']}  {record['stage']}"
        )
    typer.echo(f"{sum(record['seconds'] for record in records):9.1f} s in {len(records)} stages")


@app.command("plan")
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


@app.command("caption")
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
app.add_typer(exports, name="export")


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


def _one_line(error: Exception) -> str:
    """What is printed for an expected failure."""
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        return f"{named}{error.strerror or error}{hint}"
    return " ".join(str(error).split())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: expected failures become one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "httpx", "diffusers", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(args=arguments, standalone_mode=True)
    except (Ims3Error, OSError) as error:
        print(f"ims3: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def registered() -> list[str]:
    """Names of all commands, in the order of the help page."""
    group: Any = typer.main.get_command(app)
    return list(group.commands)
