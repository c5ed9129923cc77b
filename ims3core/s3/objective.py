"""What Selective Subgroup Sampling minimises (paper Eq. 10), its terms and its log-distances.

With d(u, v) = 1 - cos(u, v), over the chosen group centroids c_i and the real centroids r_i:

    alpha * sum_i log(d(c_i, r_i) + eps)  -  pair_weight * sum_{i<j} log(d(c_i, c_j) + eps)

The paper and the authors' code differ in the pair weight only. Products, logarithms and sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ims3core.errors import DataError, NumericsError, ParameterError
from ims3core.s3.centroids import group_centroids, unit

MAX_MATRIX_BYTES = 512 * 2**20
COINCIDENT = 1e-12  # a distance this small is rounding: the two directions are the same


@dataclass(frozen=True)
class Objective:
    """The minimised value of Eq. 10 and its two signed, weighted terms; ``total`` is their sum."""

    total: float
    closeness: float
    separation: float


@dataclass(frozen=True)
class Instance:
    """One selection problem, checked: unit centroids in float64, and the weights of the two terms."""

    groups: Tensor  # (classes, groups, dim)
    real: Tensor  # (classes, dim)
    alpha: float
    pair_weight: float
    eps: float


def pair_weight(beta: float, *, classes: int, normalisation: str) -> float:
    """Weight of log d(c_i, c_j) for one unordered pair of classes.

    'paper' (Eq. 10) sums ordered pairs and divides by C - 1, so a pair weighs 2 beta / (C - 1); 'official'
    sums unordered pairs undivided, so it weighs beta, (C - 1) / 2 times as much. One class has no pair.

    Raises:
        ParameterError: an unknown normalisation.
    """
    if normalisation not in ("paper", "official"):
        raise ParameterError(f"s3.normalisation: found {normalisation!r}, wanted 'paper' or 'official'")
    if classes == 1:
        return 0.0
    return 2 * beta / (classes - 1) if normalisation == "paper" else beta


def make_instance(
    group_centroids: Tensor, real_centroids: Tensor, *, alpha: float, beta: float, eps: float, normalisation: str
) -> Instance:
    """The checked problem for ``group_centroids`` (classes, groups, dim) and ``real_centroids`` (classes, dim)."""
    if group_centroids.ndim != 3 or group_centroids[:, 0].shape != real_centroids.shape or not real_centroids.numel():
        raise DataError(
            f"group_centroids, real_centroids: found shapes {tuple(group_centroids.shape)} and "
            f"{tuple(real_centroids.shape)}, wanted (classes, groups, dim) and (classes, dim)"
        )
    return Instance(
        groups=unit(group_centroids, name="group_centroids"),
        real=unit(real_centroids, name="real_centroids"),
        alpha=alpha,
        pair_weight=pair_weight(beta, classes=len(real_centroids), normalisation=normalisation),
        eps=eps,
    )


def log_distance(cosine: Tensor, eps: float) -> Tensor:
    """log(1 - cosine + eps), the cosine clamped to [-1, 1]; overwrites its argument."""
    return cosine.clamp_(-1, 1).neg_().add_(1 + eps).log_()


def check_coincidence(logs: Tensor, eps: float, what: str) -> None:
    """Raises NumericsError if eps is 0, or lost beside 1, and a distance behind ``logs`` is 0 up to rounding."""
    if 1 + eps == 1 and logs.numel() and logs.min() < math.log(COINCIDENT):
        raise NumericsError(
            f"s3.eps: found {eps:g} while {what} coincide (log 0), wanted eps above 0, for example 1e-6"
        )


def unary_logs(problem: Instance) -> Tensor:
    """log d(c_{i,g}, r_i), (classes, groups)."""
    logs = log_distance(torch.bmm(problem.groups, problem.real[:, :, None]).squeeze(2), problem.eps)
    check_coincidence(logs, problem.eps, "a group centroid and the real centroid of its class")
    return logs


def evaluate(problem: Instance, choice: Tensor) -> Objective:
    """The objective of ``choice`` (classes,), from the chosen centroids alone (paper Eq. 10)."""
    chosen = problem.groups[torch.arange(len(choice)), choice]
    to_real = log_distance((chosen * problem.real).sum(1), problem.eps)
    check_coincidence(to_real, problem.eps, "a chosen centroid and the real centroid of its class")
    above = torch.triu_indices(len(choice), len(choice), offset=1)
    pairs = log_distance((chosen @ chosen.T)[above[0], above[1]], problem.eps)
    check_coincidence(pairs, problem.eps, "the chosen centroids of two classes")
    closeness = problem.alpha * to_real.sum().item()
    separation = -problem.pair_weight * pairs.sum().item()
    return Objective(closeness + separation, closeness, separation)


def block(problem: Instance, i: int, columns: Tensor) -> Tensor:
    """log d of every group of class i to one centroid per class, (groups, classes); 0 in column i."""
    logs = log_distance(problem.groups[i] @ columns.T, problem.eps)
    logs[:, i] = 0
    return logs


def pair_logs(problem: Instance) -> Tensor:
    """The whole log-distance matrix: [i, h, g, j] is log d(c_{i,g}, c_{j,h}); (classes, groups, groups, classes)."""
    classes, groups, _ = problem.groups.shape
    matrix = problem.groups.new_empty(classes, groups, groups, classes)
    for h in range(groups):
        columns = problem.groups[:, h].contiguous()
        for i in range(classes):
            matrix[i, h] = block(problem, i, columns)
    return matrix


def matrix_fits(problem: Instance, max_matrix_bytes: int) -> bool:
    """Whether :func:`pair_logs` stays within ``max_matrix_bytes``."""
    classes, groups, _ = problem.groups.shape
    return (classes * groups) ** 2 * problem.groups.element_size() <= max_matrix_bytes


def set_terms(features: Tensor, real_centroids: Tensor) -> dict[str, float]:
    """The two terms of Eq. 10 for a finished set, unweighted, so that any two methods can be compared.

    Args:
        features: (classes, ipc, dim), unit norm.
        real_centroids: (classes, dim), unit norm.

    Returns:
        ``closeness``, the sum of log(1 - cos) to the real centroids (lower is closer), and
        ``separation``, minus the mean over the others of log(1 - cos) between centroids, summed over
        classes (lower is farther apart).
    """
    problem = make_instance(
        group_centroids(features[:, None]), real_centroids, alpha=1.0, beta=1.0, eps=1e-6, normalisation="paper"
    )
    terms = evaluate(problem, torch.zeros(len(features), dtype=torch.int64))
    return {"closeness": terms.closeness, "separation": terms.separation}
