"""Writes params.yaml with a comment at every key: the descriptions of the schema are the only place they stand in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ims3core.base.schema import Entry
from ims3core.params import Params, entries, flow

WIDTH, COLUMN = 118, 30
TABLES = {
    "adaptations": ("adaptations",), "guides": ("guides",), "pools": ("sources", "samplers"),
    "refinements": ("selections", "refinements"), "diagnostics": ("diagnostics",),
}  # fmt: skip
TITLES = {
    "seed": "root seed; every random draw derives its own from it",
    "generator": "latent diffusion model", "encoder": "frozen features",
    "teacher": "gives soft labels, ranks candidates",
    "adaptations": "how the generator is fine-tuned", "guides": "what the sampler knows of the real latents",
    "pools": "candidate images: source, adaptation, guide, sampler", "centroids": "r_i (Eq. 8)",
    "methods": "a pool, and what is kept of it", "refinements": "rows that start from the sets of another row",
    "students": "networks that are trained", "protocols": "how students are trained and scored (paper 5.1)",
    "diagnostics": "what studies measure of a generator", "coverage": "in the encoder's space",
}  # fmt: skip


def commented(params: Params, header: str) -> str:
    """The complete text of params.yaml: ``header``, then every section with its comments, entries after their table."""
    lines, tree = [f"# {line}" for line in header.splitlines()], params.tree
    written: set[str] = set()
    for name in Params.model_fields:
        if name in tree and name != "studies":
            lines += _section(name, tree[name], getattr(params, name), params)
        for axis in TABLES.get(name, ()):
            for entry in entries.names(axis):
                if entry in tree and entry not in written and entry not in Params.model_fields:
                    written.add(entry)
                    lines += _entry(entries.entry_class(axis, entry, entry), tree[entry], entries.summary(axis, entry))
    return "\n".join(lines) + "\n"


def _section(name: str, tree: Any, section: Any, params: Params) -> Iterator[str]:
    """One section of the fixed ones."""
    title = TITLES.get(name, _title(type(section)))
    if not isinstance(tree, dict):
        yield _line(f"{name}: {_flow(tree)}", title)
    elif not tree:
        yield _line(f"{name}: {{}}", title)
    elif isinstance(section, dict):
        yield _line(f"{name}:", title)
        for row, values in tree.items():
            yield from _row(row, values)
    else:
        yield _line(f"{name}:", title)
        yield from _keys(tree, type(section), section, "  ")


def _entry(kind: type[Entry], tree: dict[str, Any], summary: str) -> Iterator[str]:
    """The section of an entry of an axis."""
    name = kind.entry_name()
    if not tree:
        yield _line(f"{name}: {{}}", summary)
        return
    yield _line(f"{name}:", summary)
    yield from _keys(tree, kind, None, "  ")


def _keys(tree: dict[str, Any], kind: type[BaseModel], section: Any, indent: str) -> Iterator[str]:
    for key, value in tree.items():
        inner = getattr(section, key, None)
        if isinstance(inner, BaseModel) and isinstance(value, dict):
            yield _line(f"{indent}{key}:", _title(type(inner)))
            yield from _keys(value, type(inner), inner, indent + "  ")
        else:
            field = kind.model_fields.get(key)
            yield _line(f"{indent}{key}: {_flow(value)}", field.description if field else None)


def _row(name: str, values: dict[str, Any]) -> Iterator[str]:
    """A row of a table: on one line, on several, or, where a colon would confuse parsers, key by key."""
    if any(isinstance(value, str) and ":" in value for value in values.values()):
        yield f"  {name}:"
        yield from (f"    {key}: {_flow(value)}" for key, value in values.items())
        return
    text = ", ".join(f"{key}: {_flow(value)}" for key, value in values.items())
    first, *more = wrap_flow(f"  {name}: {{{text}}}", WIDTH)
    yield first
    yield from (f"    {line.strip()}" for line in more)


def wrap_flow(text: str, width: int) -> list[str]:
    """The lines of a flow mapping; a key and its value stay together."""
    lines = textwrap.wrap(
        text.replace(": ", ":\0"), width, break_long_words=False, break_on_hyphens=False, subsequent_indent="    "
    )  # fmt: skip
    return [line.replace("\0", " ") for line in lines]


def _line(text: str, comment: str | None) -> str:
    """A line with its comment; of a long one, the clauses that fit: the whole is on the page Parameters."""
    if not comment:
        return text
    begun, comment = f"{text.ljust(COLUMN - 1)} # ", comment.rstrip(".")
    if len(begun) < WIDTH - 40 or len(begun) + len(comment) <= WIDTH + 2:
        return begun + shortened(comment, WIDTH + 2 - len(begun))
    indent = " " * (len(text) - len(text.lstrip()))
    return f"{indent}# {shortened(comment, WIDTH - len(indent))}\n{text}"


def shortened(comment: str, width: int) -> str:
    """As much of a sentence as fits in ``width``, up to the end of a clause."""
    if len(comment) <= width:
        return comment
    ends = [comment.rfind(mark, 0, width + 1) for mark in ("; ", ": ", " (", ", ", " ")]
    return comment[: next((end for end in ends if end > 8), width)]


def _flow(value: Any) -> str:
    """A value as it stands behind its key: flow style, the shortest exact form of numbers."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return flow(value)


def _number(value: float) -> str:
    """A number that every reader of YAML takes for one: 1.0e-06 is text to some, 1.0e-6 is not."""
    text = repr(value)
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}"


def _title(kind: type) -> str:
    """The first line of a section's docstring."""
    return (kind.__doc__ or "").strip().split("\n")[0]
