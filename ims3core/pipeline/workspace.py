"""Work that survives a kill and serves again: units in a scratch directory, one writer, one final move.

DVC deletes a stage's outputs before it runs it, so work lives elsewhere: ``scratch/<stage>/<fingerprint>``. A restarted
stage goes on, and one that is asked for more makes only what is new; any other fingerprint starts afresh. A unit is
named by what decides its content, written whole or not at all, and hard-linked into the output, so that it takes no
space of its own. A file lock keeps an orphan of a killed ``dvc`` and its successor from writing side by side: the
successor waits, and takes over what the orphan published. A unit has a lock of its own, for many workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ims3core.base import files
from ims3core.base.distributed import ProcessGroup
from ims3core.base.records import REMEDY, Sha256
from ims3core.errors import ArtifactError, HeldError

log = logging.getLogger(__name__)
LEDGER, OUTPUT, PUBLISHED, LOCK, HOLDER = "ledger.json", "out", "published", "lock", "holder"


def short_digest(facts: Any) -> str:
    """Sixteen hexadecimal digits over JSON-able ``facts``."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Workspace:
    """A locked scratch directory in which a stage prepares one output.

    Attributes:
        path: the directory of units and checkpoints; what an earlier run left is there.
        already_published: another process published the same work while this one waited.
    """

    def __init__(self, path: Path, tag: str, *, already_published: bool) -> None:
        self.path, self.already_published, self._tag = path, already_published, tag
        self._ledger = _read_ledger(path)

    @classmethod
    def shared(cls, root: Path, name: str, fingerprint: str) -> Workspace:
        """One that another process has locked, to make units in and nothing else."""
        return cls(_home(root, name) / fingerprint, "", already_published=False)

    def has(self, name: str) -> bool:
        """Whether the unit ``name``, a file or a folder, is there; one that changed since it was published is not."""
        path = self.path / name
        if not path.exists():
            return False
        if name in self._ledger and content_digest(path) != self._ledger[name]:
            log.warning("%s: changed since it was made; made again", path)
            remove(path)
            return False
        return True

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path | None]:
        """A temporary sibling to write a file or folder to; when the block ends it is the unit ``name``, whole.

        One writer at a time: whoever waited for another, and finds the unit there, is given None.
        """
        part = self.path / f".{name}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / f".{name}.lock"):
            if (self.path / name).exists():
                yield None
                return
            remove(part)
            with files.naming(part):
                yield part
                if part.exists():
                    part.replace(self.path / name)

    @property
    def output(self) -> Path:
        """The directory that :meth:`publish` moves; created on first use."""
        directory = self.path / OUTPUT
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def link(self, inside: str, place: str) -> None:
        """Hard-links a unit, or a file or folder inside one, into :attr:`output` as ``place``."""
        target = self.output / place
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(self.path / inside, target)

    def publish(self, target: Path | None, units: Iterable[str]) -> None:
        """Moves :attr:`output` to ``target``, if there is one, and drops everything that is not one of ``units``."""
        if target is not None:
            files.replace_directory(self.output, target)
        files.write_bytes(self.path.parent / PUBLISHED, self._tag.encode())
        ledger = {name: content_digest(self.path / name) for name in units}
        for path in self.path.iterdir():
            if path.name not in ledger:
                remove(path)
        if ledger:
            files.write_json(self.path / LEDGER, ledger)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def open_workspace(
    root: Path, name: str, fingerprint: str, *, extent: Any = None, processes: ProcessGroup | None = None,
    wait: bool = True,
) -> Iterator[Workspace]:  # fmt: skip
    """Locks ``root/scratch/name`` and yields the :class:`Workspace` of ``fingerprint``.

    Leftovers of other fingerprints are deleted: they belong to parameters that are no longer asked for. ``extent`` is
    JSON-able and says how much is asked of what ``fingerprint`` describes. One line is logged if another run holds the
    lock, and one for each unfinished work that is deleted. Of several processes the main one holds the lock for all;
    they need a common file system, and a ParameterError says if their fingerprints differ. Without ``wait`` a lock that
    another run holds is a HeldError.
    """
    group, tag = processes or ProcessGroup(), f"{fingerprint} {short_digest(extent)}"
    group.require_equal(tag, f"{name}: fingerprint of parameters, inputs and code")
    home = _home(root, name)
    if not group.is_main:
        yield Workspace(home / fingerprint, tag, already_published=group.broadcast(None))
        return
    with exclusive(home, name, wait=wait) as waited:
        done = waited and _published(home) == tag
        if not done:
            _delete_stale(home, fingerprint)
            (home / fingerprint).mkdir(exist_ok=True)
            remove(home / fingerprint / OUTPUT)
            _delete_untrusted(home / fingerprint)
        yield Workspace(home / fingerprint, tag, already_published=group.broadcast(done))


def _home(root: Path, name: str) -> Path:
    """The folder of a stage's work."""
    return root / "scratch" / name.replace(":", "_")


def _delete_stale(home: Path, fingerprint: str) -> None:
    """Deletes work of other fingerprints; a line says so where it was unfinished."""
    published = (_published(home) or "").split(" ")[0]
    (home / PUBLISHED).unlink(missing_ok=True)
    for stale in home.iterdir():
        if stale.is_dir() and stale.name != fingerprint:
            if stale.name != published and any(path.name != OUTPUT for path in stale.iterdir()):
                log.warning("%s: deleted, unfinished work under other parameters, inputs or code", stale)
            shutil.rmtree(stale)


def _read_ledger(path: Path) -> dict[str, str]:
    """The digests of the units in ``path`` that were published."""
    ledger = path / LEDGER
    return files.read_json(ledger, dict[str, Sha256]) if ledger.is_file() else {}


def _delete_untrusted(path: Path) -> None:
    """Deletes all units in ``path`` where the ledger that vouches for them is damaged; a line says so."""
    try:
        _read_ledger(path)
    except ArtifactError as error:
        log.warning("%s: every unit is made again", str(error).removesuffix(f"; {REMEDY}"))
        for unit in path.iterdir():
            remove(unit)


@contextlib.contextmanager
def exclusive(home: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of the folder ``home``, signed with the process; yields whether another run was waited for.

    Raises:
        HeldError: another run holds it, and there is no ``wait``.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock, holder, waited = FileLock(home / LOCK), home / HOLDER, False
    try:
        lock.acquire(blocking=False)
    except Timeout:
        process = holder.read_text() if holder.is_file() else "unknown"
        if not wait:
            raise HeldError(f"{name}: process {process} is still at it") from None
        log.warning("%s: process %s is still at it; waiting for it to end", name, process)
        lock.acquire()
        waited = True
    try:
        with files.naming(holder):
            holder.write_text(str(os.getpid()))
        yield waited
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def content_digest(path: Path) -> str:
    """The SHA-256 of a file, or over the names and contents of a folder's files."""
    if path.is_file():
        return files.sha256(path)
    pairs = [(p.relative_to(path).as_posix(), files.sha256(p)) for p in sorted(path.rglob("*")) if p.is_file()]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _published(home: Path) -> str | None:
    """The tag of the work that was published last."""
    path = home / PUBLISHED
    return path.read_text() if path.is_file() else None


def _link(source: Path, target: Path) -> None:
    """Hard-links a file or a folder of files; copies where links are impossible."""

    def one(one_source: str, one_target: str) -> None:
        try:
            os.link(one_source, one_target)
        except OSError:
            shutil.copyfile(one_source, one_target)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=one)
    else:
        one(str(source), str(target))
