"""Work that survives a kill: shards in a fingerprinted scratch directory, one writer, one final move.

DVC deletes a stage's outputs before it runs it, so unfinished work lives elsewhere:
``scratch/<name>/<fingerprint>``. The fingerprint covers parameters, inputs and code; a restarted
stage with the same fingerprint finds its shards and goes on, any other starts afresh. A file lock
keeps an orphan of a killed ``dvc`` and its successor from writing side by side: the successor waits,
and takes over what the orphan published.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

from ims3core import files
from ims3core.processes import Team


@cache
def code_digest() -> str:
    """The SHA-256 over all source files of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint(parameters: Any, inputs: list[Path]) -> str:
    """Sixteen hexadecimal digits over JSON-able ``parameters``, the input artifacts' content and the code."""
    facts = [parameters, [files.manifest_digest(path) for path in inputs], code_digest()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Workspace:
    """A locked scratch directory in which a stage prepares one output.

    Attributes:
        path: the directory for shards and checkpoints; what an earlier, killed run left is there.
        finished_elsewhere: true if another process published the same work while this one waited.
    """

    def __init__(self, path: Path, finished_elsewhere: bool, team: Team) -> None:
        self.path = path
        self.finished_elsewhere = finished_elsewhere
        self._team = team

    @property
    def staged(self) -> Path:
        """The directory that :meth:`publish` moves; created on first use."""
        directory = self.path / "out"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def publish(self, target: Path, kind: str, **facts: Any) -> None:
        """Completes ``staged`` with a manifest, moves it to ``target`` and drops the scratch directory.

        Of several processes the leader does it; all return when it is done.
        """
        self._team.barrier()
        if self._team.leads:
            files.write_manifest(self.staged, kind, **facts)
            files.replace_directory(self.staged, target)
            self.finish()
        self._team.barrier()

    def finish(self) -> None:
        """Records that the work is published and drops the scratch directory."""
        files.write_bytes(self.path.parent / "published", self.path.name.encode())
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def workspace(
    root: Path, name: str, key: str, on_wait: Callable[[str], None], team: Team | None = None
) -> Iterator[Workspace]:
    """Locks ``root/scratch/name`` and yields the :class:`Workspace` of fingerprint ``key``.

    Leftovers of other fingerprints are deleted: they belong to parameters that are no longer asked for.
    ``on_wait`` receives one line if another run holds the lock. Of several processes the leader holds
    the lock for all; they need a common file system, and a ParameterError says if their keys differ.
    """
    team = team or Team()
    team.agree(key, f"{name}: fingerprint of parameters, inputs and code")
    home = root / "scratch" / name.replace(":", "_")
    if not team.leads:
        yield Workspace(home / key, team.share(None), team)
        return
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        finished = _acquire(lock, name, on_wait) and _published(home) == key
        if not finished:
            (home / "published").unlink(missing_ok=True)
            for stale in home.iterdir():
                if stale.is_dir() and stale.name != key:
                    shutil.rmtree(stale)
            (home / key).mkdir(exist_ok=True)
        yield Workspace(home / key, team.share(finished), team)


def _acquire(lock: IO[str], name: str, on_wait: Callable[[str], None]) -> bool:
    """Locks and signs the file; true if another run had to be waited for."""
    waited = False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        on_wait(f"{name}: process {lock.read().strip() or 'unknown'} is still at it; waiting for it to end")
        fcntl.flock(lock, fcntl.LOCK_EX)
        waited = True
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return waited


def _published(home: Path) -> str | None:
    """The fingerprint of the work that was published last."""
    path = home / "published"
    return path.read_text() if path.is_file() else None
