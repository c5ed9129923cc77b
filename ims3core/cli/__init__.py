"""The command line ``ims3``: one small command per stage, and those around them.

A stage module, and with it torch, is imported inside its command: ``ims3 --help`` loads none of the heavy packages.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ims3core.cli import look, products, run, stages
from ims3core.errors import Ims3Error
from ims3core.pipeline import launching

NO_CHECKOUT = (
    "no params.yaml, dvc.yaml or profiles/ in this folder: the pipeline is used from a checkout of its repository; "
    "change into one and run this again"
)


class Commands(TyperGroup):
    """All commands; Ctrl-C ends each in a line that says what happens next, and exit code 130 as of other programs."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; of the processes of a launcher, that one speaks for all."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if not {"WORLD_SIZE", launching.LAUNCHED} & os.environ.keys():
                print(
                    "ims3: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr
                )
            raise SystemExit(130) from None


app = typer.Typer(
    name="ims3",
    cls=Commands,
    help="Diffusion-based dataset distillation: one command per DVC stage (`dvc repro` runs them all).",
    epilog="Names of commands and options with the Tab key: ims3 --install-completion, then a new shell.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for group in (stages, run, look, products):
    app.add_typer(group.app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("ims3"))
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Diffusion-based dataset distillation: one command per DVC stage (`dvc repro` runs them all)."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: expected failures become one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "httpx", "diffusers", "fontTools", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(args=arguments, standalone_mode=True)
    except (Ims3Error, OSError) as error:
        print(f"ims3: {_one_line(error) if _is_checkout() else NO_CHECKOUT}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        _leave_process_group()


def _is_checkout() -> bool:
    """Whether the current folder has any of what every command reads."""
    return any(Path(name).exists() for name in ("params.yaml", "dvc.yaml", "profiles"))


def _one_line(error: Exception) -> str:
    """What is printed for an expected failure."""
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename else ""
        hint = "; free some space and run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{named}{error.strerror or str(error) or type(error).__name__}{hint}"
    return " ".join(str(error).split()) or type(error).__name__


def _leave_process_group() -> None:
    """Parts from the other processes, if any: threads of gloo that outlive the interpreter abort it (SIGABRT)."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def registered() -> list[str]:
    """Names of all commands, in the order of the help page."""
    group: Any = typer.main.get_command(app)
    return list(group.commands)
