"""The images whose running mean follows the class mean (Welling 2009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped

if TYPE_CHECKING:
    from torch import Tensor


class Herding(Selection):
    """Herding within each class."""

    deterministic = True

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        candidates.require(ipc, f"ipc {ipc}")
        return ungrouped([herding(features, ipc) for features in candidates.features])


def herding(features: Tensor, ipc: int) -> Tensor:
    """The ``ipc`` images whose running mean follows the class mean, in the order chosen (Welling 2009).

    Step k takes the unchosen image nearest, in Euclidean distance, to (k + 1) mean - sum of the chosen ones.

    Args:
        features: (N, dim).
        ipc: images to choose, at most N; the choice for a smaller ipc is a prefix.

    Returns:
        (ipc,) long, distinct positions in ``features``; a tie goes to the lowest one.
    """
    import torch

    from ims3core.s3.centroids import first_minimum

    points = features.double()
    squared = points.square().sum(1)
    to_mean = points @ points.mean(0)
    to_sum = torch.zeros_like(squared)  # products with the running sum of the chosen features
    chosen: list[int] = []
    for k in range(ipc):
        # Squared distance to the target, less the target's own norm, which all images share.
        distance = squared - 2 * ((k + 1) * to_mean - to_sum)
        distance[chosen] = torch.inf
        chosen.append(first_minimum(distance))
        to_sum += points @ points[chosen[-1]]
    return torch.tensor(chosen)
