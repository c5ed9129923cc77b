"""A command of ours under a launcher of several processes, such as ``accelerate launch``."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ims3core.errors import ParameterError

LAUNCHED = "IMS3_LAUNCHED"  # set for the processes of a launcher, also one that starts a single process
SOCKET = "IMS3_WARM"  # names the socket of a warm server; none for what is launched: it is at the command that waits
UNITS_ONLY = "IMS3_UNITS_ONLY"  # set where a stage shall make its units and leave the rest to another process


def launch(launcher: str, arguments: Sequence[str], root: Path = Path(), **environment: str) -> None:
    """Runs ``python -m ims3core`` with these arguments under ``launcher``, in the folder ``root``.

    Raises:
        ParameterError: there is no such launcher, or it ended with an error.
    """
    command = [*shlex.split(launcher), "-m", "ims3core", *arguments]
    own = {name: value for name, value in os.environ.items() if name != SOCKET}
    try:
        code = subprocess.run(command, check=False, cwd=root, env=own | {LAUNCHED: "1"} | environment).returncode
    except FileNotFoundError as error:
        raise ParameterError(f"compute.launch: {command[0]!r}: no such command") from error
    if code:
        raise ParameterError(f"compute.launch: {shlex.join(command)} ended with code {code}; see the lines above")
