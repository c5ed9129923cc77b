"""Class and group centroids on the unit sphere (paper Eq. 8 and 9)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ims3core.errors import DataError, NumericsError


def unit(vectors: Tensor, *, name: str) -> Tensor:
    """The vectors divided by their Euclidean norm over the last dimension, float64.

    Raises:
        NumericsError: a vector is zero or not finite, so that it has no direction.
    """
    result = vectors.to(torch.float64, copy=True)  # the one copy: at 1000 x 50 x 512 each costs 200 MB
    norms = torch.linalg.vector_norm(result, dim=-1, keepdim=True)
    bad = ~torch.isfinite(norms) | (norms < 1e-12)
    if bad.any():
        where = tuple(bad.squeeze(-1).nonzero()[0].tolist())
        raise NumericsError(
            f"{name}: found a vector of norm {norms[where].item():g} at index {where}, wanted a finite, non-zero one"
        )
    return result.div_(norms)


def real_centroids(
    features: Tensor,
    class_index: Tensor,
    *,
    classes: int,
    real_per_class: int,
    generator_for: Callable[[int], torch.Generator],
) -> Tensor:
    """Unit-norm centroid r_i of each class over at most ``real_per_class`` of its images (paper Eq. 8).

    Args:
        features: (N, dim), unit norm.
        class_index: (N,) long, in [0, classes).
        generator_for: the generator that permutes the images of one class; a fresh one per class keeps
            every centroid independent of the other classes.

    Returns:
        (classes, dim), the dtype of ``features``.

    Raises:
        DataError: a class has no image, or an image has a class outside the range.
    """
    if len(features) and not 0 <= int(class_index.min()) <= int(class_index.max()) < classes:
        raise DataError(
            f"class_index: found values in [{int(class_index.min())}, {int(class_index.max())}], wanted them in "
            f"[0, {classes - 1}]"
        )
    counts = torch.bincount(class_index, minlength=classes).tolist()
    members = class_index.argsort(stable=True).split(counts)
    centroids = []
    for i, rows in enumerate(members):
        if not len(rows):
            raise DataError(f"class {i}: found 0 images for its real centroid, wanted at least 1")
        kept = rows[torch.randperm(len(rows), generator=generator_for(i))[:real_per_class]]
        # Ascending order, so that a class taken whole does not depend on the permutation by a rounding.
        centroids.append(unit(features[kept.sort().values], name="features").mean(0))
    return unit(torch.stack(centroids), name="real_centroids").to(features.dtype)


def group_centroids(features: Tensor) -> Tensor:
    """Unit-norm centroid c_{i,g} of each candidate group (paper Eq. 9).

    Args:
        features: (classes, groups, ipc, dim), unit norm.

    Returns:
        (classes, groups, dim), the dtype of ``features``.
    """
    return unit(unit(features, name="features").mean(2), name="group_centroids").to(features.dtype)


def first_minimum(values: Tensor, *, tolerance: float = 1e-10) -> int:
    """The lowest index whose value is the minimum up to rounding, so that equal candidates tie exactly."""
    least = values.min()
    return int((values <= least + tolerance * (1 + least.abs())).nonzero()[0])
