"""The entry of one stage in dvc.lock, in the bytes of DVC, without reading and writing all the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ims3core.base import files

HEAD = "schema: '2.0'\nstages:\n"
NAME = re.compile(r"^  (?=[^\s#-])", re.MULTILINE)  # where the entry of a stage begins
OTHERS = re.compile(r"^(\S| *#)", re.MULTILINE)  # a section of its own, or a comment, which DVC keeps


def record(stage: Any) -> None:
    """Notes in dvc.lock what ``stage`` has read and made, as ``stage.dump(update_pipeline=False)`` of DVC does.

    DVC parses and prints the whole file in pure Python to keep comments, which takes longer than many a stage. Here the
    lines of the one stage take the place of its former ones; the file is replaced whole. One with comments, with other
    sections or cut off is left to DVC.
    """
    path = Path(stage.path).with_name("dvc.lock")
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    if not (text.startswith(HEAD) and text.endswith("\n")) or OTHERS.search(text, len(HEAD)):
        stage.dump(update_pipeline=False)
        return
    changed = with_entry(text, entry(stage))
    if changed != text:
        files.write_bytes(path, changed.encode())
        stage.repo.scm_context.track_file(stage.repo.fs.relpath(str(path)))


def entry(stage: Any) -> str:
    """The lines of a stage, as DVC writes them."""
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    text: str = dumps_yaml({"stages": to_lockfile(stage)})
    return text.removeprefix("stages:\n")


def with_entry(lock: str, lines: str) -> str:
    """``lock`` with ``lines`` in the place of those of the same stage, or at the end."""
    parts = NAME.split(lock.removeprefix(HEAD))[1:]
    new, name = lines[2:], lines[: lines.index("\n") + 1][2:]
    parts = [new if part.startswith(name) else part for part in parts]
    if new not in parts:
        parts.append(new)
    return HEAD + "".join(f"  {part}" for part in parts)
