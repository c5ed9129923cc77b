"""What every stage will cost: steps, FLOPs, images, memory and disk; loads no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.pipeline.graph import Graph, Node
from ims3core.planning.evaluation_costs import EvaluationCosts
from ims3core.planning.facts import Cost
from ims3core.planning.generation_costs import GenerationCosts
from ims3core.planning.sizes import DatasetSize, dataset_size

if TYPE_CHECKING:
    from ims3core.params import Params


class _Planner(GenerationCosts, EvaluationCosts):
    """The costs of every stage, each by the method of its name."""

    def cost(self, node: Node) -> Cost:
        """The costs of one stage."""
        row: Cost = getattr(self, f"_{node.stage}")(node)
        return replace(row, stage=node.address)


def costs(params: Params, root: Path, size: DatasetSize | None = None) -> tuple[list[Cost], DatasetSize]:
    """The plan: one row per stage of the graph, in its order; ``size`` of the data set is found out without one."""
    planner = _Planner(params, size or dataset_size(params, root))
    return [planner.cost(node) for node in Graph(params.tree).nodes], planner.size
