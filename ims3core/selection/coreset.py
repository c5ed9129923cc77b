"""Subsets of the images of one class: herding, k-center and nested random draws."""

from __future__ import annotations

import torch
from torch import Tensor

from ims3core.errors import DataError
from ims3core.selection.centroids import first_minimum


def check_count(found: int, wanted: int, *, name: str, reason: str) -> None:
    """Raises DataError if class ``name`` has fewer than ``wanted`` images."""
    if found < wanted:
        raise DataError(f"class {name}: found {found} images, wanted at least {wanted} ({reason})")


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
    check_count(len(features), ipc, name=name, reason=f"ipc {ipc}")
    points = features.double()
    squared = points.square().sum(1)
    to_mean = points @ points.mean(0)
    to_sum = torch.zeros_like(squared)  # products with the running sum of the chosen features
    chosen = []
    for k in range(ipc):
        # Squared distance to the target, less the target's own norm, which all images share.
        distance = squared - 2 * ((k + 1) * to_mean - to_sum)
        distance[chosen] = torch.inf
        chosen.append(first_minimum(distance))
        to_sum += points @ points[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Tensor, ipc: int, *, name: str = "of this call") -> Tensor:
    """The ``ipc`` images of greedy farthest-first, started nearest to the class mean (Sener & Savarese 2018).

    Args, returns and errors as in :func:`herding`.
    """
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


def random_subset(count: int, ipc: int, generator: torch.Generator, *, name: str = "of this call") -> Tensor:
    """The first ``ipc`` of one random permutation of ``count`` images, so that sets nest across ipc.

    Raises:
        DataError: the class has fewer than ``ipc`` images.
    """
    check_count(count, ipc, name=name, reason=f"ipc {ipc}")
    return torch.randperm(count, generator=generator)[:ipc]
