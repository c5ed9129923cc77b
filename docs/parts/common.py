"""What the parts share: the profiles and studies of the project, values and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ims3core.params import Params
from ims3core.pipeline import profiles

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("digits", "digits-all", "imagewoof", "imagewoof-ddvlcp")  # where a value is looked for first


@cache
def trees() -> dict[str, dict[str, Any]]:
    """The values of every profile with its layers merged, :data:`FIRST` first."""
    return {name: profile(name).tree for name in sorted(profiles.names(ROOT), key=_place)}


def _place(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


@cache
def profile(name: str) -> Params:
    """A profile, checked."""
    return profiles.read(ROOT, name, every_row=True)


@cache
def summaries() -> dict[str, str]:
    """What every profile says of itself in its first line."""
    return {name: _first_line(ROOT / f"profiles/{name}.yaml").partition(": ")[2] for name in trees()}


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().strip()


@cache
def large() -> list[str]:
    """The profiles that start from a generator that exists: those of ImageNet."""
    return [name for name, tree in trees().items() if tree["generator"]["source"] == "pretrained"]


def names(holders: Iterable[str]) -> str:
    """Profiles by name, all of ImageNet's together by that."""
    given = list(holders)
    if set(large()) <= set(given):
        given = ["ImageNet profiles", *(name for name in given if name not in large())]
    return ", ".join(given)


def value(found: Any) -> str:
    """A value as params.yaml has it, on one line."""
    text: str = yaml.safe_dump(found, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def code(text: str) -> str:
    """Text as code in a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table; ``align`` has one of ``lr`` for each column."""
    marks = {"l": ":--", "r": "--:"}
    lines = [head, [marks[letter] for letter in align.ljust(len(head), "l")], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(summary: str, content: str) -> str:
    """Content that opens on a click, on the site and on a repository's page alike."""
    return f'<details markdown="1">\n<summary>{summary}</summary>\n\n{content}\n\n</details>'


def anchored(text: str) -> str:
    """Text in which ``<`` starts no tag."""
    return text.replace("<", "&lt;")
