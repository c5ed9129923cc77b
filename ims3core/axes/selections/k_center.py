"""Greedy farthest-first, started nearest to the class mean (Sener & Savarese 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped

if TYPE_CHECKING:
    from torch import Tensor


class KCenter(Selection):
    """Greedy k-center within each class."""

    deterministic = True

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        candidates.require(ipc, f"ipc {ipc}")
        return ungrouped([k_center(features, ipc) for features in candidates.features])


def k_center(features: Tensor, ipc: int) -> Tensor:
    """The ``ipc`` images of greedy farthest-first, started nearest to the class mean (Sener & Savarese 2018).

    Args:
        features: (N, dim).
        ipc: images to choose, at most N; the choice for a smaller ipc is a prefix.

    Returns:
        (ipc,) long, distinct positions in ``features``; a tie goes to the lowest one.
    """
    import torch

    from ims3core.s3.centroids import first_minimum

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
