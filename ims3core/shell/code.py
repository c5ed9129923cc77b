"""Which source files a stage stands on, read from dvc.yaml, so that unfinished work of other code is never taken up."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]


def digest(stage: str, **item: Any) -> str:
    """The SHA-256 over the code that dvc.yaml lists for ``stage``; over the whole package where there is no dvc.yaml.

    Args:
        item: what ``${item.<name>}`` stands for in the row, ``key`` for the row's own name.
    """
    return _digest(tuple(dependencies(stage, **item)))


def dependencies(stage: str, **item: Any) -> list[str]:
    """The files of code that ``stage`` depends on, relative to the project, sorted."""
    entry = stages().get(stage)
    named = ["ims3core", "stages"] if entry is None else entry.get("do", entry)["deps"]
    paths = [PROJECT / _filled(name, item) for name in named if name.split("/")[0] in ("ims3core", "stages")]
    found = {file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])}
    return sorted(file.relative_to(PROJECT).as_posix() for file in found)


def _filled(text: str, item: dict[str, Any]) -> str:
    """A dependency with its ``${item.x}`` and ``${key}`` replaced."""
    return re.sub(r"\$\{(?:item\.)?(\w+)\}", lambda match: str(item[match[1]]), text)


@cache
def stages() -> dict[str, Any]:
    """The stages of dvc.yaml, in its order; none where there is no dvc.yaml."""
    path = PROJECT / "dvc.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}


@cache
def _digest(names: tuple[str, ...]) -> str:
    result = hashlib.sha256()
    for name in names:
        result.update(name.encode() + b"\0" + (PROJECT / name).read_bytes())
    return result.hexdigest()
