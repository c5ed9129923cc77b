"""dvc.yaml with the rows of params.yaml filled in: what every stage depends on, read once for all who ask.

DVC resolves the same templates itself when it runs; a test holds this reading against DVC's own for every profile.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ims3core.errors import CodeChangedError, ParameterError, some
from ims3core.params import tree_of

PROJECT = Path(__file__).parents[2]
CODE = ("ims3core", "stages")
SUFFIXES = (".py", ".yaml", ".csv", ".j2")  # of its files: sources, and what they read that lies beside them
TEMPLATE = re.compile(r"\$\{([^}]+)\}")
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """One stage of dvc.yaml for one row.

    Attributes:
        stage: its name in dvc.yaml; ``row``: what comes after ``@`` in DVC's address, empty without rows.
        arguments: of the command line, after the name of the stage.
        params: keys of params.yaml that it depends on, dotted.
        deps: files and folders that it depends on, relative to the root.
        outs: what it writes, metrics included.
    """

    stage: str
    row: str
    arguments: tuple[str, ...]
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def address(self) -> str:
        """The name by which DVC knows it, for example ``select@ims3``."""
        return f"{self.stage}@{self.row}" if self.row else self.stage

    @property
    def place(self) -> str:
        """The name of its folder in ``scratch/``."""
        return self.address.replace("@", "-")

    @property
    def data(self) -> tuple[str, ...]:
        """The dependencies that are not code."""
        return tuple(dep for dep in self.deps if dep.split("/")[0] not in CODE)

    @cached_property
    def code(self) -> tuple[str, ...]:
        """The source files it depends on, sorted."""
        return code_files(tuple(dep for dep in self.deps if dep.split("/")[0] in CODE))

    @property
    def code_digest(self) -> str:
        """The SHA-256 over names and contents of its source files."""
        return _digest(self.code)


class Graph:
    """All stages of dvc.yaml, in its order, for one params.yaml."""

    def __init__(self, tree: Tree, stages: Mapping[str, Any] | None = None) -> None:
        self.tree = tree
        templates = read_stages() if stages is None else stages
        self.nodes = [node for name, entry in templates.items() for node in _nodes(name, entry, tree)]

    def of(self, stage: str) -> list[Node]:
        """All rows of a stage."""
        return [node for node in self.nodes if node.stage == stage]

    def node(self, stage: str, *arguments: object) -> Node:
        """The stage ``stage`` of the row that its command names by ``arguments``."""
        words = tuple(map(str, arguments))
        for node in self.nodes:
            if node.stage == stage and node.arguments == words:
                return node
        raise ParameterError(f"{stage}: dvc.yaml has no row {' '.join(words) or 'without arguments'}")

    @cached_property
    def _writers(self) -> _Writers:
        return _Writers(self.nodes)

    def edges(self) -> dict[str, list[str]]:
        """Every address with those of the stages whose outputs it depends on."""
        order = {node.address: number for number, node in enumerate(self.nodes)}
        return {
            node.address: sorted(self._writers.of(node) - {node.address}, key=order.__getitem__) for node in self.nodes
        }

    def upstream(self, targets: list[str]) -> list[Node]:
        """The stages of these names or addresses with all they stand on, in order."""
        chosen = {node.address for node in self.nodes if {node.stage, node.address} & set(targets)}
        for node in reversed(self.nodes):
            if node.address in chosen:
                chosen |= self._writers.of(node)
        return [node for node in self.nodes if node.address in chosen]

    def changed_by(self, keys: list[str]) -> list[Node]:
        """The stages that changes of params.yaml at ``keys`` outdate: those that depend on one, and what follows."""
        changed: dict[str, Node] = {}
        for node in self.nodes:
            named = any(overlap(key, param, ".") for key in keys for param in node.params)
            if named or not changed.keys().isdisjoint(self._writers.of(node)):
                changed[node.address] = node
        return list(changed.values())


class _Writers:
    """Which stages write what: a path is asked for once, and not held against the outputs of all."""

    def __init__(self, nodes: list[Node]) -> None:
        self.at: dict[str, set[str]] = defaultdict(set)  # addresses by output
        self.below: dict[str, set[str]] = defaultdict(set)  # by folder that holds one
        for node in nodes:
            for out in node.outs:
                self.at[out].add(node.address)
                for folder in _parents(out):
                    self.below[folder].add(node.address)

    def of(self, node: Node) -> set[str]:
        """The addresses of stages with an output that is, contains or lies in what ``node`` depends on."""
        found: set[str] = set()
        for dep in node.data:
            found |= self.below.get(dep, set())
            for place in (dep, *_parents(dep)):
                found |= self.at.get(place, set())
        return found


def _parents(path: str) -> list[str]:
    """The folders that a path lies in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def overlap(one: str, other: str, separator: str = "/") -> bool:
    """Whether two paths or dotted keys are the same or one contains the other."""
    first, second = one.split(separator), other.split(separator)
    return all(a == b for a, b in zip(first, second, strict=False))


def value_at(tree: Tree, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value[part] if part in value else value.get(int(part)) if part.isdigit() else None
    return value


@cache
def read_stages() -> dict[str, Any]:
    """The stages of dvc.yaml as they are written, in its order; none where there is no dvc.yaml."""
    path = PROJECT / "dvc.yaml"
    return tree_of(path.read_text(encoding="utf-8"), name=path.name)["stages"] if path.is_file() else {}


@cache
def code_files(deps: tuple[str, ...] = CODE) -> tuple[str, ...]:
    """The source files behind dependencies on files and folders of code, relative to the project, sorted."""
    paths = [PROJECT / dep for dep in deps]
    files = {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return tuple(sorted(file.relative_to(PROJECT).as_posix() for file in files))


@cache
def loaded_code() -> dict[str, bytes]:
    """Every file of code by its name, as it was when this process first asked: before it loads stages."""
    return _code_now()


def project_digest() -> str:
    """Sixteen hexadecimal digits over all code, as it was when this process began."""
    return _digest(tuple(loaded_code()))[:16]


def changed_code() -> list[str]:
    """The files of code that are now others than those that this process has loaded."""
    now, loaded = _code_now(), loaded_code()
    return sorted(name for name in now.keys() | loaded.keys() if now.get(name) != loaded.get(name))


def require_loaded_code() -> None:
    """Raises a CodeChangedError where files of code are others than those that this process has loaded."""
    if changed := changed_code():
        raise CodeChangedError(f"the code changed while ims3 repro ran ({some(changed)}); start it again")


def _code_now() -> dict[str, bytes]:
    found = {}
    for path in sorted(path for part in CODE for path in (PROJECT / part).rglob("*") if path.suffix in SUFFIXES):
        if not path.name.startswith("."):  # of an editor
            with contextlib.suppress(FileNotFoundError):
                found[path.relative_to(PROJECT).as_posix()] = path.read_bytes()
    return found


@cache
def _digest(names: tuple[str, ...]) -> str:
    """Over names and contents, those of the code that this process has loaded."""
    loaded, result = loaded_code(), hashlib.sha256()
    for name in names:
        own = loaded[name] if name in loaded else (PROJECT / name).read_bytes()
        result.update(name.encode() + b"\0" + own)
    return result.hexdigest()


def _nodes(name: str, entry: Mapping[str, Any], tree: Tree) -> Iterator[Node]:
    """The stages that one entry of dvc.yaml stands for."""
    if "matrix" in entry:
        values = [_resolved(axis, tree) for axis in entry["matrix"].values()]
        for combination in itertools.product(*values):
            scope = {"item": dict(zip(entry["matrix"], combination, strict=True))}
            yield _node(name, "-".join(map(str, combination)), entry, tree, scope)
    elif "foreach" in entry:
        rows = _resolved(entry["foreach"], tree) or {}
        for key, item in rows.items():
            yield _node(name, key, entry["do"], tree, {"key": key, "item": item})
    else:
        yield _node(name, "", entry, tree, {})


def _node(stage: str, row: str, entry: Mapping[str, Any], tree: Tree, scope: Tree) -> Node:
    def filled(texts: list[Any]) -> tuple[str, ...]:
        names = (next(iter(text)) if isinstance(text, dict) else text for text in texts)
        return tuple(str(_resolved(text, tree, scope)) for text in names)

    words = str(_resolved(entry["cmd"], tree, scope)).split()
    outs = [*entry.get("outs", []), *entry.get("metrics", [])]
    return Node(stage, row, tuple(words[4:]), filled(entry["params"]), filled(entry["deps"]), filled(outs))


def _resolved(text: Any, tree: Tree, scope: Tree | None = None) -> Any:
    """``text`` with its templates replaced by values of the row (``item``, ``key``) or of params.yaml."""
    scope = scope or {}

    def value(name: str) -> Any:
        source = scope if name.split(".")[0] in scope else tree
        return value_at(source, name)

    if whole := TEMPLATE.fullmatch(text):
        return value(whole[1])
    return TEMPLATE.sub(lambda match: str(value(match[1])), text)
