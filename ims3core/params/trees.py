"""Parameters as they are written, before they are checked: changing keys, and leaving out what no row needs."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, get_args

from ims3core.base.schema import Section
from ims3core.errors import ParameterError
from ims3core.params import entries
from ims3core.params.tables import TABLES

Tree = dict[str, Any]
REAL = "real"  # the pool that others are compared with
NONE = "none"


def change(tree: Tree, key: str, value: Any) -> None:
    """Sets a dotted key that exists or may be left out, a row of a table, or the section of an entry.

    Raises:
        ParameterError: the parameters have no such key.
    """
    *path, last = key.split(".")
    section: Any = tree
    for depth, part in enumerate(path):
        if isinstance(section, dict) and part not in section and _has_default(path[:depth], part):
            section[part] = {}
        section = section.get(part) if isinstance(section, dict) else None
    is_new_row = path in [[table] for table in TABLES] or (not path and entries.is_entry(last))
    if not isinstance(section, dict) or not (last in section or is_new_row or _may_be_left_out(path, last)):
        raise ParameterError(f"params.yaml has no key {key!r}")
    by_number = last.isdigit() and any(isinstance(name, int) for name in section)  # tables by IPC
    section[int(last) if by_number else last] = deepcopy(value)  # which later keys may change


def _may_be_left_out(path: list[str], key: str) -> bool:
    """Whether the section at ``path`` has a field ``key`` with a default, or lies in a field of a row or entry.

    What may stand there is for the check of the parameters to say.
    """
    deepest = 2 if path[:1] in [[table] for table in TABLES] else 1
    inside = len(path) > deepest and (deepest == 2 or entries.is_entry(path[0]))
    return inside or _has_default(path, key)


def _has_default(path: list[str], key: str) -> bool:
    """Whether the section, row or entry at ``path`` has a field ``key`` with a default."""
    from ims3core.params import Params

    section: Any = None
    match path:
        case [table, _] if table in TABLES:
            section = get_args(Params.model_fields[table].annotation)[1]
        case [name] if axes := [axis for axis in entries.AXES if name in entries.names(axis)]:
            section = entries.entry_class(axes[0], name, name)
        case [name] if name in Params.model_fields:
            section = Params.model_fields[name].annotation
    if not (isinstance(section, type) and issubclass(section, Section)):
        return False
    return key in section.model_fields and not section.model_fields[key].is_required()


def holds(tree: Tree, key: str) -> bool:
    """Whether ``tree`` has a dotted key."""
    section: Any = tree
    for part in key.split("."):
        names = {str(name): name for name in section} if isinstance(section, dict) else {}
        if part not in names:
            return False
        section = section[names[part]]
    return True


def needed_rows(tree: Tree) -> Tree:
    """``tree`` with the rows that ``eval.methods`` and diagnostics stand on alone, and the sections of their entries.

    Raises:
        ParameterError: a row names one that is not there.
    """
    methods, refinements = _lineages(tree)
    centroids = {row.get("centroids") for row in methods.values()}
    pools = {row.get("pool") for row in methods.values()} | {REAL}
    pools |= {row.get("pool") for row in _rows(tree, "centroids", centroids).values()}
    kept: Tree = {"methods": methods, "refinements": refinements}
    kept["centroids"], kept["pools"] = _rows(tree, "centroids", centroids), _rows(tree, "pools", pools)
    kept["guides"] = _rows(tree, "guides", {row.get("guide") for row in kept["pools"].values()} | {NONE})
    tables = (kept["pools"], kept["guides"], tree.get("diagnostics", {}))
    adaptations = {row.get("adaptation") for table in tables for row in table.values()}
    kept["adaptations"] = _rows(tree, "adaptations", adaptations)
    return without_unnamed_entries(tree | kept)


def _lineages(tree: Tree) -> tuple[Tree, Tree]:
    """The rows of ``methods`` and of ``refinements`` that ``eval.methods`` go back to."""
    names, wanted = list(tree["eval"]["methods"]), set()
    while names:
        name = names.pop()
        if name in wanted:
            continue
        wanted.add(name)
        if name in tree["refinements"]:
            names.append(tree["refinements"][name].get("start"))
        elif name not in tree["methods"]:
            known = ", ".join(sorted([*tree["methods"], *tree["refinements"]]))
            raise ParameterError(f"eval.methods: {name!r} is unknown; known: {known}")
    return _rows(tree, "methods", wanted), _rows(tree, "refinements", wanted)


def _rows(tree: Tree, table: str, names: set[Any]) -> Tree:
    """The rows of a table with these names, in their order."""
    return {name: row for name, row in tree.get(table, {}).items() if name in names}


def without_unnamed_entries(tree: Tree) -> Tree:
    """``tree`` less the sections of entries that no row names."""
    from ims3core.params import Params

    rows = [row for table in TABLES for row in tree.get(table, {}).values()]
    named = {row.get(key) for row in rows for key in ("type", "source", "sampler")}
    return {
        name: value for name, value in tree.items()
        if name in Params.model_fields or name in named or not entries.is_entry(name)
    }  # fmt: skip
