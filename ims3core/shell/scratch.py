"""Work that survives a kill and serves again: parts in a scratch directory, one writer, one final move.

DVC deletes a stage's outputs before it runs it, so work lives elsewhere: ``scratch/<name>/<key>``. The key covers
the parameters, inputs and code that decide what a part is, never how many are wanted; so a restarted stage goes on,
and one that is asked for more makes only what is new. Any other key starts afresh. A part is named by what decides
its content, written whole or not at all, and hard-linked into the output, so that it takes no space of its own.
A file lock keeps an orphan of a killed ``dvc`` and its successor from writing side by side: the successor waits, and
takes over what the orphan published.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.base import files

if TYPE_CHECKING:
    from ims3core.base.processes import Team

LEDGER = "ledger.json"


def fingerprint(parameters: Any, inputs: list[Path], code: str) -> str:
    """Sixteen hexadecimal digits over JSON-able ``parameters``, the input artifacts' content and a digest of code."""
    return short([parameters, [files.manifest_digest(path) for path in inputs], code])


def short(facts: Any) -> str:
    """Sixteen hexadecimal digits over JSON-able ``facts``."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Workspace:
    """A locked scratch directory in which a stage prepares one output.

    Attributes:
        path: the directory for parts and checkpoints; what an earlier run left is there.
        finished_elsewhere: true if another process published the same work while this one waited.
    """

    def __init__(
        self, path: Path, finished_elsewhere: bool, team: Team | _Alone, tag: str, on_wait: Callable[[str], None]
    ) -> None:
        self.path = path
        self.finished_elsewhere = finished_elsewhere
        self._team, self._tag, self._say = team, tag, on_wait
        ledger = path / LEDGER
        self._ledger: dict[str, str] = files.read_json(ledger) if ledger.is_file() else {}
        self._used: dict[str, str] = {}

    @property
    def staged(self) -> Path:
        """The directory that :meth:`publish` moves; created on first use."""
        directory = self.path / "out"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def has(self, name: str) -> bool:
        """Whether the part ``name``, a file or a folder, is there; one that changed since it was published is not."""
        path = self.path / name
        if not path.exists():
            return False
        if name in self._ledger and _content(path) != self._ledger[name]:
            self._say(f"{path}: changed since it was made; made again")
            _remove(path)
            return False
        return True

    def use(self, name: str, place: str | None = None) -> None:
        """Links the part ``name`` into ``staged``, as ``place`` or under its own name."""
        self.link(name, place or name)
        self.keep(name)

    def keep(self, name: str) -> None:
        """Says that the part ``name`` belongs to this output, whether or not it is in it."""
        self._used[name] = _content(self.path / name)

    def link(self, inside: str, place: str) -> None:
        """Links a file or folder inside a part into ``staged`` as ``place``."""
        target = self.staged / place
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(self.path / inside, target)

    def publish(self, target: Path, kind: str, **facts: Any) -> None:
        """Completes ``staged`` with a manifest and moves it to ``target``.

        Of several processes the leader does it; all return when it is done.
        """
        self._team.barrier()
        if self._team.leads:
            files.write_manifest(self.staged, kind, **facts)
            self.move(target)
        self._team.barrier()

    def move(self, target: Path) -> None:
        """Moves ``staged`` to ``target`` as it is."""
        files.replace_directory(self.staged, target)
        self.finish()

    def finish(self) -> None:
        """Records that the work is published, and drops every part that is not used in it."""
        files.write_bytes(self.path.parent / "published", self._tag.encode())
        for path in self.path.iterdir():
            if path.name not in self._used:
                _remove(path)
        if self._used:
            files.write_json(self.path / LEDGER, self._used)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


class _Alone:
    """A team of one, for stages that start without torch."""

    leads = True

    def agree(self, value: str, what: str) -> None: ...

    def barrier(self) -> None: ...

    def share(self, value: Any) -> Any:
        return value


@contextlib.contextmanager
def workspace(
    root: Path,
    name: str,
    key: str,
    on_wait: Callable[[str], None],
    team: Team | None = None,
    *,
    extent: Any = None,
) -> Iterator[Workspace]:
    """Locks ``root/scratch/name`` and yields the :class:`Workspace` of fingerprint ``key``.

    Leftovers of other fingerprints are deleted: they belong to parameters that are no longer asked for.
    ``extent`` is JSON-able and says how much is wanted of what ``key`` describes. ``on_wait`` receives one line if
    another run holds the lock, and one for each unfinished work that is deleted. Of several processes the leader holds
    the lock for all; they need a common file system, and a ParameterError says if their keys differ.
    """
    team, tag = team or _Alone(), f"{key} {short(extent)}"
    team.agree(tag, f"{name}: fingerprint of parameters, inputs and code")
    home = root / "scratch" / name.replace(":", "_")
    if not team.leads:
        finished = team.share(None)
        yield Workspace(home / key, finished, team, tag, on_wait)
        return
    with alone(home / "lock", name, on_wait) as waited:
        finished = waited and _published(home) == tag
        if not finished:
            finished_key = (_published(home) or "").split(" ")[0]
            (home / "published").unlink(missing_ok=True)
            for stale in home.iterdir():
                if stale.is_dir() and stale.name != key:
                    if any(stale.iterdir()) and stale.name != finished_key:
                        on_wait(f"{stale}: deleted, unfinished work under other parameters, inputs or code")
                    shutil.rmtree(stale)
            (home / key).mkdir(exist_ok=True)
            _remove(home / key / "out")
        yield Workspace(home / key, team.share(finished), team, tag, on_wait)


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A temporary sibling to fill; when the block ends it becomes ``folder``, a part that is there whole or not."""
    staged = folder.with_name(f".{folder.name}.part")
    _remove(staged)
    staged.mkdir(parents=True)
    yield staged
    staged.replace(folder)


@contextlib.contextmanager
def alone(path: Path, name: str, on_wait: Callable[[str], None]) -> Iterator[bool]:
    """Holds the lock file ``path``, signed with the process; yields whether another run had to be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
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
        yield waited


def _published(home: Path) -> str | None:
    """The tag of the work that was published last."""
    path = home / "published"
    return path.read_text() if path.is_file() else None


def _content(path: Path) -> str:
    """The SHA-256 of a file, or over the names and contents of a folder's files."""
    if path.is_file():
        return files.sha256(path)
    found = [(p.relative_to(path).as_posix(), files.sha256(p)) for p in sorted(path.rglob("*")) if p.is_file()]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
