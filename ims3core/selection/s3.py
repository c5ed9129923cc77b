"""Selective Subgroup Sampling: one candidate group per class by coordinate descent (paper Eq. 10, 11, Alg. 2).

With d(u, v) = 1 - cos(u, v), the search minimises

    alpha * sum_i log(d(c_i, r_i) + eps)  -  pair_weight * sum_{i<j} log(d(c_i, c_j) + eps)

over the chosen group centroids c_i and the real centroids r_i. The paper and the authors' code differ in
the pair weight only. Products, logarithms and sums are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ims3core.errors import DataError, NumericsError, ParameterError
from ims3core.selection.centroids import first_minimum, group_centroids, unit

MAX_MATRIX_BYTES = 512 * 2**20
COINCIDENT = 1e-12  # a distance this small is rounding: the two directions are the same


@dataclass(frozen=True)
class Objective:
    """The minimised value of Eq. 10 and its two signed, weighted terms; ``total`` is their sum."""

    total: float
    closeness: float
    separation: float


@dataclass(frozen=True)
class Selection:
    """The outcome of :func:`select_groups`.

    ``choice`` is (classes,) long; ``sweeps`` and ``converged`` belong to the descent that was kept;
    ``start_objectives`` and ``end_objectives`` have one entry per restart.
    """

    choice: Tensor
    objective: float
    closeness: float
    separation: float
    sweeps: int
    converged: bool
    start_objectives: tuple[float, ...]
    end_objectives: tuple[float, ...]
    engine: str


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
    found = f"{tuple(group_centroids.shape)} and {tuple(real_centroids.shape)}"
    if group_centroids.ndim != 3 or group_centroids[:, 0].shape != real_centroids.shape or not real_centroids.numel():
        raise DataError(
            f"group_centroids, real_centroids: found shapes {found}, wanted (classes, groups, dim) and (classes, dim)"
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
    """Raises NumericsError if eps is 0 and a distance behind ``logs`` is 0 up to rounding."""
    if eps == 0 and logs.numel() and logs.min() < math.log(COINCIDENT):
        raise NumericsError(f"s3.eps: found 0 while {what} coincide (log 0), wanted eps above 0, for example 1e-6")


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


def _block(problem: Instance, i: int, columns: Tensor) -> Tensor:
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
            matrix[i, h] = _block(problem, i, columns)
    return matrix


def matrix_fits(problem: Instance, max_matrix_bytes: int) -> bool:
    """Whether :func:`pair_logs` stays within ``max_matrix_bytes``."""
    classes, groups, _ = problem.groups.shape
    return (classes * groups) ** 2 * problem.groups.element_size() <= max_matrix_bytes


class _Blockwise:
    """The log-distances a trial sums up, made anew at every visit from the centroids chosen now."""

    name = "blockwise"

    def __init__(self, problem: Instance) -> None:
        self.problem = problem

    def start(self, choice: Tensor) -> None:
        self.columns = self.problem.groups[torch.arange(len(choice)), choice]  # (classes, dim)

    def move(self, i: int, group: int) -> None:
        self.columns[i] = self.problem.groups[i, group]

    def row(self, i: int) -> Tensor:
        return _block(self.problem, i, self.columns)


class _Matrix:
    """The same log-distances read from the whole matrix.

    They are the same bit for bit: every entry of :func:`pair_logs` comes from :func:`_block` as well, a matrix
    product of one shape in which class i's groups are the rows and class j is column j, and both engines hand
    over contiguous (groups, classes) tensors, so the sums over them are equal too.
    """

    name = "matrix"

    def __init__(self, problem: Instance) -> None:
        self.matrix = pair_logs(problem)

    def start(self, choice: Tensor) -> None:
        self.picked = choice.clone()

    def move(self, i: int, group: int) -> None:
        self.picked[i] = group

    def row(self, i: int) -> Tensor:
        index = self.picked.expand(1, self.matrix.shape[1], len(self.picked))
        return self.matrix[i].gather(0, index)[0]


def _descend(
    problem: Instance, unary: Tensor, engine: _Blockwise | _Matrix, choice: Tensor, max_sweeps: int
) -> tuple[int, bool]:
    """Coordinate descent in class order, moving ``choice`` in place; (sweeps begun, converged)."""
    classes = len(choice)
    engine.start(choice)
    settled = 0  # classes in a row known to be at their best; all of them is what a sweep without a move shows
    for sweep in range(1, max_sweeps + 1):
        for i in range(classes):
            logs = engine.row(i)
            check_coincidence(logs, problem.eps, f"a candidate of class {i} and the chosen centroid of another class")
            values = problem.alpha * unary[i] - problem.pair_weight * logs.sum(1)
            best, now = first_minimum(values), int(choice[i])
            settled += 1
            # A gain within rounding is none: it keeps ties still and the descent from going round in circles.
            if values[best] < values[now] - 1e-10 * (1 + values[now].abs()):
                choice[i] = best
                engine.move(i, best)
                settled = 1
            if settled >= classes:
                return sweep, True
    return max_sweeps, False


def select_groups(
    group_centroids: Tensor,
    real_centroids: Tensor,
    *,
    alpha: float,
    beta: float,
    eps: float,
    normalisation: str,
    start: str,
    restarts: int,
    max_sweeps: int,
    generator: torch.Generator | None = None,
    max_matrix_bytes: int = MAX_MATRIX_BYTES,
) -> Selection:
    """The group of each class that coordinate descent on Eq. 10 ends in (paper Alg. 2).

    Class by class all groups are tried with the others fixed and the best is kept; a tie stays, or goes to the
    lowest group. It stops once every class in a row has kept its group, so a converged choice is a local
    optimum: no change of a single class lowers the objective.

    Args:
        group_centroids: (classes, groups, dim).
        real_centroids: (classes, dim).
        start: 'nearest' takes per class the group nearest to its real centroid (the authors' code), 'random'
            draws it from ``generator`` (the paper).
        restarts: number of descents; the first from ``start``, further ones from random choices; the best is kept.
        max_sweeps: limit per descent; ``converged`` says whether it was enough.
        generator: needed where a start is random.
        max_matrix_bytes: whole log-distance matrix where it fits, one block per visit elsewhere; same choices.

    Differs: a tie is decided with a tolerance of 1e-10, so that equal candidates do not depend on rounding.

    Raises:
        NumericsError: eps is 0 and two centroids that were tried coincide.
    """
    problem = make_instance(
        group_centroids, real_centroids, alpha=alpha, beta=beta, eps=eps, normalisation=normalisation
    )
    if start not in ("nearest", "random"):
        raise ParameterError(f"s3.start: found {start!r}, wanted 'nearest' or 'random'")
    if min(restarts, max_sweeps) < 1:
        raise ParameterError(f"s3.restarts, s3.max_sweeps: found {restarts} and {max_sweeps}, wanted at least 1 each")
    classes, groups, _ = problem.groups.shape
    unary = unary_logs(problem)
    engine = _Matrix(problem) if matrix_fits(problem, max_matrix_bytes) else _Blockwise(problem)
    runs, start_objectives = [], []
    for restart in range(restarts):
        if restart == 0 and start == "nearest":
            choice = torch.tensor([first_minimum(row) for row in unary])
        else:
            choice = torch.randint(groups, (classes,), generator=generator)
        start_objectives.append(evaluate(problem, choice).total)
        sweeps, converged = _descend(problem, unary, engine, choice, max_sweeps)
        runs.append((evaluate(problem, choice), choice, sweeps, converged))
    ends = torch.tensor([run[0].total for run in runs], dtype=torch.float64)
    value, choice, sweeps, converged = runs[first_minimum(ends)]
    return Selection(
        choice=choice,
        objective=value.total,
        closeness=value.closeness,
        separation=value.separation,
        sweeps=sweeps,
        converged=converged,
        start_objectives=tuple(start_objectives),
        end_objectives=tuple(ends.tolist()),
        engine=engine.name,
    )


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
