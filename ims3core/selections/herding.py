"""The images whose running mean follows the class mean (Welling 2009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params.schema import Empty as Section  # noqa: F401
from ims3core.selections import Candidates, Choice, check_count, ungrouped

if TYPE_CHECKING:
    from torch import Tensor

DETERMINISTIC = True
SOURCES = None


def need(ipc: int) -> None:
    """All there are: the mean is theirs."""


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
    """Herding within each class."""
    return ungrouped(
        [herding(own, ipc, name=name) for own, name in zip(candidates.features, candidates.names, strict=True)]
    )


def herding(features: Tensor, ipc: int, *, name: str = "of this call") -> Tensor:
    """The ``ipc`` images whose running mean follows the class mean, in the order chosen (Welling 2009).

    Step k takes the unchosen image nearest, in Euclidean distance, to (k + 1) mean - sum of the chosen ones.

    Args:
        features: (N, dim).
        ipc: images to choose; the choice for a smaller ipc is a prefix.
        name: the class, for the error message.

    Returns:
        (ipc,) long, distinct positions in ``features``; a tie goes to the lowest one.

    Raises:
        DataError: the class has fewer than ``ipc`` images.
    """
    import torch

    from ims3core.subgroups.centroids import first_minimum

    check_count(len(features), ipc, name=name, reason=f"ipc {ipc}")
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
