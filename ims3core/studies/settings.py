"""The settings of a study: params.yaml with some keys changed, cut down to the rows that the study compares."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ims3core import params
from ims3core.errors import ParameterError
from ims3core.params.trees import change, needed_rows
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
    try:
        for key, value in changed.items():
            change(tree, key, value)
    except ParameterError as error:
        raise ParameterError(f"studies.{name}: {error}") from error
    tree["eval"] |= {"methods": study.rows, "ipc": study.ipc, "draws": study.draws, "seeds": study.seeds}
    tree["eval"] |= {"split": study.split, **{part: tree["eval"][part][:1] for part in ("students", "protocols")}}
    tree["report"]["tsne_method"] = study.rows[0]
    try:
        params.checked(tree)
        tree = needed_rows(tree)
        for table in ("students", "protocols"):
            tree[table] = {row: values for row, values in tree[table].items() if row in tree["eval"][table]}
        checked, graph = params.checked(tree), Graph(tree)
    except ParameterError as error:
        raise ParameterError(f"{said}: {str(error).removeprefix('params.yaml: ')}") from error
    facts = {section: value for section, value in tree.items() if section not in UNTRACKED}
    digests = [node.code_digest for node in graph.nodes if node.stage not in ("report", "full_data")]
    key = short_digest([facts, tree["compute"]["precision"], digests, sorted(study.measures)])
    return Setting(labels, checked, graph, key, first_draw)
