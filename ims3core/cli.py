"""The command line ``ims3``: one small command per stage, and those of :mod:`ims3core.tools`.

The two modules alone know Typer, params.yaml and ``stages``. A stage module, and with it torch, is
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
from typing import Annotated, Any

import typer

from ims3core.params import Params, load
from ims3core.shell import timings
from ims3core.shell.errors import Ims3Error, ParameterError
from ims3core.tools import ROOT, chosen, tools

app = typer.Typer(
    name="ims3",
    help="Diffusion-based dataset distillation: one command per DVC stage (`dvc repro` runs them all).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
    for name in chosen(list(getattr(params, table)), row, table):
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
    for name in chosen(params.eval.protocols, protocol, "eval.protocols"):
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
    for name in chosen(params.eval.students, student, "eval.students"):
        for rules in chosen(params.eval.protocols, protocol, "eval.protocols"):
            run_stage("students", (name, rules), params=params, function="run_full_data")


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


app.add_typer(tools)


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
    finally:
        _leave_team()


def _leave_team() -> None:
    """Parts from the other processes, if any: threads of gloo that outlive the interpreter abort it (SIGABRT)."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def registered() -> list[str]:
    """Names of all commands, in the order of the help page."""
    group: Any = typer.main.get_command(app)
    return list(group.commands)
