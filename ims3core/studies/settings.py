"""The settings of a study: params.yaml with some keys changed, cut down to the rows that the study compares."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ims3core import params
from ims3core.errors import ParameterError
from ims3core.params import entries
from ims3core.params.tables import TABLES
from ims3core.pipeline.graph import Graph
from ims3core.pipeline.workspace import short_digest
from ims3core.studies.definitions import Study

UNTRACKED = ("compute", "report")  # what no result depends on, but for compute.precision


@dataclass(frozen=True)
class Setting:
    """One experiment of a study.

    Attributes:
        labels: what tells it from the others, as text: ``{"s3.alpha": "0.4"}`` or ``{"setting": "official"}``.
        params: the checked parameters, with the rows and sections alone that its rows need.
        graph: the stages of dvc.yaml for them.
        key: sixteen hexadecimal digits over everything that its results depend on.
        first_draw: the number of its first drawn set, where earlier root seeds have drawn some.
    """

    labels: dict[str, str]
    params: params.Params
    graph: Graph
    key: str
    first_draw: int = 0

    @property
    def tree(self) -> dict[str, Any]:
        """The parameters as params.yaml holds them."""
        return self.params.tree


def settings_of(name: str, tree: dict[str, Any], study: Study) -> list[Setting]:
    """The settings of the study ``name`` of the params.yaml ``tree``, in order: the first varied key turns slowest.

    Raises:
        ParameterError: naming the study and the key that is unknown, or the setting that params.yaml does not allow.
    """
    if study.settings:
        changes = [({"setting": label}, changed) for label, changed in study.settings.items()]
    else:
        combined = [dict(zip(study.vary, values, strict=True)) for values in itertools.product(*study.vary.values())]
        changes = [({key: text(value) for key, value in changed.items()}, changed) for changed in combined]
    return [
        _setting(name, tree | {"seed": seed}, study, labels, study.fixed | changed, first_draw=n * study.draws)
        for labels, changed in changes
        for n, seed in enumerate(study.root_seeds or [tree["seed"]])
    ]


def text(value: Any) -> str:
    """A value as it stands in tables: a number or word as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _setting(
    name: str, tree: dict[str, Any], study: Study, labels: dict[str, str], changed: dict, *, first_draw: int
) -> Setting:
    said = f"studies.{name}" + "".join(f", {key} {value}" for key, value in labels.items())
    tree = deepcopy(tree)
    for key, value in changed.items():
        _change(tree, key, value, f"studies.{name}")
    tree["eval"] |= {"methods": study.rows, "ipc": study.ipc, "draws": study.draws, "seeds": study.seeds}
    tree["eval"] |= {"split": study.split, **{part: tree["eval"][part][:1] for part in ("students", "protocols")}}
    tree["report"]["tsne_method"] = study.rows[0]
    try:
        params.checked(tree)
        _prune(tree)
        checked, graph = params.checked(tree), Graph(tree)
    except ParameterError as error:
        raise ParameterError(f"{said}: {str(error).removeprefix('params.yaml: ')}") from error
    facts = {section: value for section, value in tree.items() if section not in UNTRACKED}
    digests = [node.code_digest for node in graph.nodes if node.stage not in ("report", "full_data")]
    key = short_digest([facts, tree["compute"]["precision"], digests, sorted(study.measures)])
    return Setting(labels, checked, graph, key, first_draw)


def _change(tree: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Sets ``key`` of ``tree``: one that exists, a row of a table, or the section of an entry."""
    *path, last = key.split(".")
    section: Any = tree
    for part in path:
        if not isinstance(section, dict) or part not in section:
            raise ParameterError(f"{said}: params.yaml has no key {key!r}")
        section = section[part]
    is_new_row = path in ([table] for table in TABLES) or (not path and entries.is_entry(last))
    if not isinstance(section, dict) or (last not in section and not is_new_row):
        raise ParameterError(f"{said}: params.yaml has no key {key!r}")
    section[last] = deepcopy(value)  # which later keys may change


def _prune(tree: dict[str, Any]) -> None:
    """Leaves only the rows and sections that the compared rows need: nothing else is made, or outdates a result."""
    rows, refinements, methods = list(tree["eval"]["methods"]), {}, {}
    for name in rows:
        if name in tree["refinements"]:
            refinements[name] = tree["refinements"][name]
            rows.append(refinements[name]["start"])
        else:
            methods[name] = tree["methods"][name]
    pools = {row["pool"] for row in methods.values()} | {"real"}
    centroids = {row["centroids"] for row in methods.values()}
    pools |= {tree["centroids"][name]["pool"] for name in centroids}
    kept = {"refinements": refinements, "methods": methods, "centroids": _of(tree["centroids"], centroids)}
    kept["pools"] = _of(tree["pools"], pools)
    kept["guides"] = _of(tree["guides"], {row["guide"] for row in kept["pools"].values()} | {"none"})
    tables = (kept["pools"], kept["guides"], tree["diagnostics"])
    adapted = {row["adaptation"] for table in tables for row in table.values()}
    kept["adaptations"] = _of(tree["adaptations"], adapted)
    tree |= kept | {table: _of(tree[table], set(tree["eval"][table])) for table in ("students", "protocols")}
    named = {value for table in TABLES for row in tree[table].values() for value in row.values() if type(value) is str}
    named |= params.Params.model_fields.keys()
    for section in [name for name in tree if name not in named]:
        del tree[section]


def _of(table: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: row for name, row in table.items() if name in names}
