"""Greedy farthest-first, started nearest to the class mean (Sener & Savarese 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params.schema import Empty as Section  # noqa: F401
from ims3core.selections import Candidates, Choice, check_count, ungrouped

if TYPE_CHECKING:
    from torch import Tensor

DETERMINISTIC = True
SOURCES = None


def need(ipc: int) -> None:
    """All there are."""


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
    """Greedy k-center within each class."""
    return ungrouped(
        [k_center(own, ipc, name=name) for own, name in zip(candidates.features, candidates.names, strict=True)]
    )


def k_center(features: Tensor, ipc: int, *, name: str = "of this call") -> Tensor:
    """The ``ipc`` images of greedy farthest-first, started nearest to the class mean (Sener & Savarese 2018).

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
    mean = points.mean(0)
    chosen = [first_minimum((points - mean).square().sum(1))]
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)  # squared distance to the chosen set
    while len(chosen) < ipc:
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
        # Below every distance, so that a copy of a chosen image is still preferred to the image itself.
        nearest[chosen] = -1
        chosen.append(first_minimum(-nearest))
    return torch.tensor(chosen)
