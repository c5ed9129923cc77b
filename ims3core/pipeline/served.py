"""The DVC process whose stages' commands can share one start-up (:mod:`ims3core.pipeline.warm`)."""

from __future__ import annotations

import hashlib
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path

from ims3core.pipeline.launching import LAUNCHED, SOCKET

LINUX = sys.platform == "linux"
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "fish", "ksh", "busybox"}


@dataclass(frozen=True)
class Dvc:
    """The DVC process that runs this command.

    Attributes:
        process: its number.
        handle: a file that can be read when it has ended, though nobody has waited for it.
    """

    process: int
    handle: int

    @property
    def address(self) -> str:
        """The name of its server: one of Linux without a file, so that nothing is left to delete."""
        code = hashlib.sha256(f"{sys.prefix} {__file__}".encode()).hexdigest()[:16]
        return f"\0ims3-{os.getuid()}-{self.process}-{stat(self.process, 19)}-{code}"

    def has_ended(self) -> bool:
        """Whether there is nothing to serve any more."""
        return bool(select.select([self.handle], [], [], 0)[0])

    def runs(self, process: int) -> bool:
        """Whether a process is one of its commands; one of another namespace has no number here."""
        return process > 0 and stat(process, 1) == str(self.process)


def served() -> Dvc | None:
    """The DVC process that runs this command of a stage, whose commands one server can run; None where none does."""
    others = {"WORLD_SIZE", LAUNCHED, SOCKET} & os.environ.keys()  # processes of a launcher, or `ims3 repro` has one
    if not LINUX or "DVC_STAGE" not in os.environ or others:
        return None
    process = os.getppid()
    try:
        if Path(f"/proc/{process}/comm").read_text().strip() in SHELLS:  # gone after this command
            return None
        handle = os.pidfd_open(process)
    except OSError:
        return None
    if os.getppid() != process:
        os.close(handle)
        return None
    return Dvc(process, handle)


def stat(process: int, number: int) -> str:
    """A field of what Linux says of a process, after its name: 1 its parent, 19 its beginning; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[number]
    except OSError:
        return ""
