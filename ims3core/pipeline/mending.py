"""Mends what a killed DVC leaves in a checkout, so that its next command runs; each thing that was done is a line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ims3core.base import files
from ims3core.errors import Ims3Error
from ims3core.params import tree_of

MENDED = "mended: "
FAULT = "! "
Holder = tuple[int, str]  # number and command of a process


def line(name: str, text: str, fault: str | None = None) -> str:
    """About one thing: its name, what was found, and what is wrong with it."""
    return f"{FAULT if fault else '  '}{name:<16}{text}{f': {fault}' if fault and text else fault or ''}"


def mend_lock(folder: Path) -> Iterator[str]:
    """Removes what a killed DVC left in the file ``rwlock`` of its temporary folder; yields what was done, in lines.

    DVC writes that file in place: a kill or a full disk at that moment leaves it damaged, and then every later command
    of DVC fails. Entries of processes that have ended, or whose number now belongs to another program, block it too.
    """
    path = folder / "rwlock"
    if not path.is_file():
        return
    with (folder / "rwlock.lock").open("a") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what DVC itself holds while it edits the file
        except OSError:
            yield line("dvc lock", "a DVC command is at work on it just now")
            return
        try:
            lock = json.loads(path.read_text(encoding="utf-8"))
            holders = _holders(lock)
        except (ValueError, AttributeError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            yield line("dvc lock", f"{MENDED}{path} was damaged, on which every command of DVC fails; removed")
            return
        dead = {holder for holder in holders if not _runs(*holder)}
        if dead:
            files.write_bytes(path, json.dumps(_without(lock, dead)).encode())
            numbers = ", ".join(str(pid) for pid, _ in sorted(dead))
            yield line("dvc lock", f"{MENDED}{path} was held by process {numbers}, which has ended; freed")
        for pid, command in sorted(holders - dead):
            yield line("dvc lock", f"held by process {pid}: {command}")


def mend_results(root: Path) -> Iterator[str]:
    """Brings back a dvc.lock that cannot be read, while nobody writes it; yields what was done, in lines.

    DVC writes it in place after every stage: a kill at that moment leaves it cut off, and every later command of DVC
    fails. The last commit's takes its place; what ran since is in DVC's own cache of runs, which makes nothing again.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    if _is_whole(root):
        return
    try:
        lock: Any = Repo(str(root)).lock
    except DvcException:  # no repository, so no command of DVC
        lock = contextlib.nullcontext()
    try:
        with lock:
            lines = list(restore_results(root))
    except LockError:
        lines = [line("dvc.lock", "cut off, and a DVC command is at work on it just now; left alone")]
    yield from lines


def restore_results(root: Path) -> Iterator[str]:
    """Does it for one who holds DVC's lock: what cannot be read now is not being written."""
    if _is_whole(root):
        return
    path = root / "dvc.lock"
    command = ["git", "-C", str(root), "show", "HEAD:./dvc.lock"]
    try:
        committed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        committed = b""
    if _is_lock(committed):
        files.write_bytes(path, committed)
    else:
        path.unlink()
    now = "the last commit's is in its place" if path.exists() else "removed"
    yield line(
        "dvc.lock", f"{MENDED}it was cut off when DVC was killed; {now}, and finished stages come from the cache"
    )


def _is_whole(root: Path) -> bool:
    """Whether there is nothing to mend."""
    path = root / "dvc.lock"
    return not path.is_file() or _is_lock(path.read_bytes())


def _is_lock(content: bytes) -> bool:
    """Whether DVC can read it."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(tree_of(content.decode(), name="dvc.lock"))
    except (Ims3Error, UnicodeDecodeError, Invalid):
        return False
    return True


def _holders(lock: dict[str, Any]) -> set[Holder]:
    """The processes in a lock file of DVC."""
    reading = (entry for entries in lock.get("read", {}).values() for entry in entries)
    return {_holder(entry) for entry in (*lock.get("write", {}).values(), *reading)}


def _holder(entry: dict[str, Any]) -> Holder:
    return int(entry["pid"]), str(entry["cmd"])


def _without(lock: dict[str, Any], dead: set[Holder]) -> dict[str, Any]:
    write = {path: entry for path, entry in lock.get("write", {}).items() if _holder(entry) not in dead}
    read = {path: [e for e in entries if _holder(e) not in dead] for path, entries in lock.get("read", {}).items()}
    return {"write": write, "read": {path: entries for path, entries in read.items() if entries}}


def _runs(pid: int, command: str) -> bool:
    """Whether process ``pid`` still is what DVC wrote down: its arguments joined by blanks."""
    try:
        os.kill(pid, 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of somebody else, or a system without /proc: it is there, and that is all one can say
    return words[-1:] == command.split()[-1:]
