"""Profiles: parameters in layers, one of which is written as the params.yaml in use.

A file in ``profiles/`` names the layers it ``extends`` and says only what it changes. Sections merge key by key, tables
row by row, rows key by key; lists and mappings behind a key are replaced. A row or section that is null is taken out,
a section with another ``source`` than below is replaced. Of the tables, the rows that ``eval.methods`` go back to are
kept, so that DVC runs what is asked for and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ims3core.base import files
from ims3core.base.schema import UNIONS
from ims3core.errors import ParameterError
from ims3core.params import Params, checked, tree_of
from ims3core.params.tables import TABLES
from ims3core.params.trees import change, holds, needed_rows, without_unnamed_entries
from ims3core.params.writer import commented

FOLDER = "profiles"
EXTENDS = "extends"
SHOWN = 5  # changes in an error message
LAYER = re.compile(r"^layer: true$", re.MULTILINE)
HEADER = re.compile(r"^# Written by `ims3 use (.*)`, values ([0-9a-f]{16})")
Tree = dict[str, Any]


def names(root: Path) -> list[str]:
    """The profiles that can be used: all files but those that say ``layer: true``."""
    paths = sorted((root / FOLDER).glob("*.yaml"), key=lambda path: path.stem)
    return [path.stem for path in paths if not LAYER.search(path.read_text(encoding="utf-8"))]


def read(root: Path, name: str, changes: Mapping[str, Any] | None = None, *, every_row: bool = False) -> Params:
    """The checked parameters of a profile, with some dotted keys changed.

    Args:
        every_row: keeps rows that ``eval.methods`` does not go back to, for those who list what there is.

    Raises:
        ParameterError: no such profile, layers that do not fit each other, or values that are refused.
    """
    if name not in (known := names(root)):
        raise ParameterError(f"profile: found {name!r}; known: {', '.join(known)}")
    return resolved(merged(root, name), name, changes, every_row=every_row)


def resolved(tree: Tree, name: str, changes: Mapping[str, Any] | None = None, *, every_row: bool = False) -> Params:
    """The checked parameters of the merged layers in ``tree``, which is changed, as :func:`read` returns them."""
    for key, value in (changes or {}).items():
        change(tree, key, value)
    if tree["report"]["tsne_method"] not in tree["eval"]["methods"] and "report.tsne_method" not in (changes or {}):
        tree["report"]["tsne_method"] = tree["eval"]["methods"][-1]
    tree = without_unnamed_entries(tree) if every_row else needed_rows(tree)
    if dropped := [key for key in changes or {} if not holds(tree, key)]:
        raise ParameterError(f"{dropped[0]}: no row that eval.methods goes back to stands on it")
    params = checked(tree, name=f"{FOLDER}/{name}.yaml")
    if params.needs_generator or "generator" in {key.split(".")[0] for key in changes or {}}:
        return params
    return checked(params.tree | {"generator": {"source": "none"}}, name=f"{FOLDER}/{name}.yaml")


def merged(root: Path, name: str, below: tuple[str, ...] = ()) -> Tree:
    """A layer on top of those that it extends.

    Raises:
        ParameterError: a layer that is not there, or that extends itself; a key of another type than below.
    """
    path = root / FOLDER / f"{name}.yaml"
    if name in below:
        raise ParameterError(f"{FOLDER}: {EXTENDS} goes round in circles ({' <- '.join([*below, name])})")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or not path.is_file():
        raise ParameterError(f"{FOLDER}/{below[-1] if below else name}.yaml: {EXTENDS}: found {name!r}, no such file")
    own = tree_of(path.read_text(encoding="utf-8"), name=f"{FOLDER}/{path.name}")
    own.pop("layer", None)
    extended = own.pop(EXTENDS, [])
    tree: Tree = {}
    for other in [extended] if isinstance(extended, str) else extended:
        merge(tree, merged(root, str(other), (*below, name)), f"{FOLDER}/{other}.yaml")
    merge(tree, own, f"{FOLDER}/{path.name}")
    return tree


def merge(tree: Tree, layer: Tree, place: str) -> None:
    """Puts ``layer`` on top of ``tree``, in place."""
    for section, value in layer.items():
        if section not in tree or value is None or not isinstance(value, dict):
            _put(tree, section, value, f"{place}: {section}")
        elif section in UNIONS and value.get("source", tree[section]["source"]) != tree[section]["source"]:
            tree[section] = deepcopy(value)
        else:
            depth = 2 if section in TABLES or section == "generator" else 1
            _merge_keys(tree[section], value, f"{place}: {section}", depth)


def _merge_keys(tree: Tree, layer: Tree, place: str, depth: int) -> None:
    for key, value in layer.items():
        inner = depth > 1 and isinstance(value, dict) and isinstance(tree.get(key), dict)
        if inner:
            _merge_keys(tree[key], value, f"{place}.{key}", depth - 1)
        elif value is None and depth > 1 and isinstance(tree.get(key), dict):
            del tree[key]
        else:
            _put(tree, key, value, f"{place}.{key}")


def _put(tree: Tree, key: Any, value: Any, place: str) -> None:
    """Sets a key; one that held a value of another type is refused."""
    before = tree.get(key)
    if value is None and isinstance(before, dict):
        del tree[key]
        return
    kinds = [_kind(one) for one in (before, value) if one is not None]
    if len(set(kinds)) > 1:
        raise ParameterError(f"{place}: found {value!r}, {kinds[1]}, where a layer below has {before!r}, {kinds[0]}")
    tree[key] = deepcopy(value)


def _kind(value: Any) -> str:
    """The type of a value, as people say it."""
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "a word", list: "a list", dict: "a mapping"}
    return names[type(value)]


def use(root: Path, name: str, words: list[str], *, force: bool) -> str:
    """Writes params.yaml from a profile and ``key=value`` words; returns a line that says so.

    Raises:
        ParameterError: bad words, or a params.yaml with changes of somebody's own, unless ``force``.
    """
    params, target = read(root, name, parsed(words)), root / "params.yaml"
    if target.is_file() and not force and (changes := edits(root, target.read_text(encoding="utf-8"))):
        shown = [line[:80] for line in changes[:SHOWN]]
        more = f" | and {len(changes) - SHOWN} more (`ims3 diff`)" if len(changes) > SHOWN else ""
        lost = " | ".join(shown) + more
        raise ParameterError(f"params.yaml: has changes of its own, which --force would lose: {lost}")
    files.write_bytes(target, text(params, name, words).encode())
    return f"params.yaml is now {' '.join([name, *words])}; `dvc repro` runs it"


def text(params: Params, name: str, words: list[str]) -> str:
    """The params.yaml of a profile, with its comments and a header that knows its values."""
    digest = values_digest(params.tree)
    header = f"Written by `ims3 use {shlex.join([name, *words])}`, values {digest}; `ims3 diff` shows what was changed."
    return commented(params, f"{header}\nSymbols and equation numbers are those of the IMS3 paper.")


def values_digest(tree: Tree) -> str:
    """Sixteen digits over all values; comments and layout, which DVC rewrites, do not count."""
    return hashlib.sha256(json.dumps(flat(tree), sort_keys=True, default=str).encode()).hexdigest()[:16]


def edits(root: Path, written: str) -> list[str]:
    """What somebody changed in a params.yaml since `ims3 use` wrote it, or against the nearest profile."""
    header, tree = HEADER.match(written), tree_of(written)
    if header and header[2] == values_digest(tree):
        return []
    return differences(_origin(root, written), tree)


def diff(root: Path, name: str | None) -> list[str]:
    """What params.yaml says otherwise than a profile, or than what `ims3 use` wrote."""
    written = (root / "params.yaml").read_text(encoding="utf-8")
    return differences(read(root, name).tree if name is not None else _origin(root, written), tree_of(written))


def _origin(root: Path, written: str) -> Tree:
    """The values that a params.yaml was written with; those of the nearest profile where no header says so."""
    if header := HEADER.match(written):
        name, *words = shlex.split(header[1])
        if name in names(root):
            return read(root, name, parsed(words)).tree
    trees = [read(root, name).tree for name in names(root)]
    return min(trees, key=lambda tree: len(differences(tree, tree_of(written))))


def differences(base: Tree, tree: Tree) -> list[str]:
    """What ``tree`` says otherwise than ``base``, a line each."""
    before, after = flat(base), flat(tree)
    changed = [f"{key}: {value}" for key, value in after.items() if key not in before or before[key] != value]
    return changed + [f"{key} (removed)" for key in before if key not in after]


def flat(tree: Any, prefix: str = "") -> Tree:
    """Every value by its dotted key."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def parsed(words: list[str]) -> Tree:
    """``key=value`` words as values of YAML.

    Raises:
        ParameterError: a word without ``=``.
    """
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ParameterError(f"{word}: found no '=', wanted key=value, for example s3.alpha=0.5")
        changes[key] = tree_of(f"value: {value}", name=word)["value"]
    return changes
