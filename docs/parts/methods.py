"""The axes with their entries, and every row of the profiles with what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from ims3core.base.schema import Entry
from ims3core.params import Params, entries
from ims3core.report import published
from parts.common import ROOT, anchored, code, folded, names, profile, table, trees, value

QUESTIONS = {
    "sources": "where do candidate images come from?",
    "adaptations": "how was the generator fine-tuned?",
    "guides": "what does the sampler know of the real latents?",
    "samplers": "how are latents drawn?",
    "selections": "which candidates are kept?",
    "refinements": "how is a chosen set optimised further?",
    "diagnostics": "what is measured of generators, pools and sets?",
}
SHORT = {
    "sources": "of candidate images", "adaptations": "of the generator", "guides": "of the sampler",
    "samplers": "of latents", "selections": "of candidates", "refinements": "of a set",
    "diagnostics": "of generators and sets",
}  # fmt: skip
PIECES = ("source", "adaptation", "guide", "sampler", "selection", "refinement")


def axes() -> str:
    """The axes: the question each answers, and its entries."""
    rows = [
        (code(f"{axis}/"), question, ", ".join(code(name) for name in entries.names(axis)))
        for axis, question in QUESTIONS.items()
    ]
    return table(("axis", "question", "entries"), rows)


def axes_short() -> str:
    """The axes and their entries in lines of a terminal's width."""
    return table(
        ("axis", "entries"), [(f"**{axis}** {what}", ", ".join(entries.names(axis))) for axis, what in SHORT.items()]
    )


@cache
def _texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "docs/methods.yaml").read_text(encoding="utf-8"))
    return texts


@cache
def _holders() -> dict[str, list[str]]:
    """Row -> the profiles that have it, rows in the order of the paper's tables."""
    found: dict[str, list[str]] = {}
    for name, tree in trees().items():
        for row in [*tree["methods"], *tree["refinements"]]:
            found.setdefault(row, []).append(name)
    order = [*published.LABELS, *sorted(set(found) - set(published.LABELS))]
    return {row: found[row] for row in order if row in found}


def _pieces(params: Params, row: str) -> dict[str, Entry]:
    """What a row is made of, by the axis: the entries with the row's own values."""
    start, refined = params.lineage(row)
    method = params.methods[start]
    pool, line = params.pool(method.pool), params.pools[method.pool]
    made: dict[str, Entry] = {
        "source": pool.source, "adaptation": params.adaptation(line.adaptation), "guide": pool.guide,
        "sampler": pool.sampler, "selection": params.selection(start),
    }  # fmt: skip
    if refined:
        made["refinement"] = params.refinement(refined[-1])
    return made


def _place(row: str) -> tuple[str, dict[str, Entry]]:
    name = _holders()[row][0]
    return name, _pieces(profile(name), row)


def rows() -> str:
    """One line per row: what its pool is made of, its selection, its refinement."""
    lines = []
    for row in _holders():
        made = {axis: code(entry.entry_name()) for axis, entry in _place(row)[1].items()}
        pool = [made[axis] for axis in PIECES[:4] if made[axis] != "`none`"]
        cells = (", ".join(pool), made["selection"], made.get("refinement", ""))
        lines.append((f"[{published.label(row)}](#{row})", code(row), *cells))
    return table(("system", "row", "pool: source, adaptation, guide, sampler", "selection", "refinement"), lines)


def systems() -> str:
    """One section per row: what it is, its paper, where it stands, its settings, where it differs."""
    return "\n\n".join(part for row in _holders() for part in _section(row))


def _section(row: str) -> Iterator[str]:
    text, holders = _texts()[row], _holders()[row]
    yield f"### {row}"
    start = profile(holders[0]).refinements[row].start if row in profile(holders[0]).refinements else None
    begins = f" It starts from the sets of [{start}](#{start})." if start else ""
    yield f"**{published.label(row)}.** {text['what'].strip()}{begins}"
    if text.get("paper"):
        yield f"Paper: {text['paper']}."
    if text.get("deviation"):
        yield f"Differs: {text['deviation'].strip()}"
    compared = [name for name in holders if row in profile(name).eval.methods]
    yield f"Compared in: {names(compared)}." if compared else f"In {names(holders)}, where others start from it."
    if settings := _settings(row):
        yield folded("Settings", settings)


def _settings(row: str) -> str:
    """The values of its entries in the first profile that has it, and in the first of ImageNet's."""
    holders = _holders()[row]
    shown = [holders[0], *[name for name in holders[1:] if name.startswith("imagewoof")][:1]]
    values: dict[tuple[str, str], dict[str, Any]] = {}
    about = {}
    for name in shown:
        for entry in _pieces(profile(name), row).values():
            for key, found in entry.model_dump().items():
                values.setdefault((entry.entry_name(), key), {})[name] = value(found)
                about[entry.entry_name(), key] = type(entry).model_fields[key].description or ""
    lines = [
        (
            code(".".join(place)),
            *(code(found.get(name, "")) for name in shown),
            anchored(about[place]).replace("|", "\\|"),
        )
        for place, found in values.items()
    ]
    return table(("key", *shown, "what it is"), lines) if lines else ""
