"""Eq. 10 for sets chosen image by image: greedy start, then swaps until none helps, and a lower bound.

A set is represented by the mean of its images' features, or of their random Fourier features, whose inner products
are those of a Gaussian kernel (Rahimi & Recht 2007): then two sets are close only if their distributions are, not
their means alone. With the features themselves and whole groups as the only sets it is the objective of S3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ims3core.s3.objective import Objective, log_distance, pair_weight

PAIRS = 100  # classes up to which the bound looks at every pair of candidates
TOGETHER = 16  # distances whose product is taken before the logarithm: at least 1e-96 with eps 1e-6, fine in float64


@dataclass(frozen=True)
class Problem:
    """Candidates in the space where sets are means.

    Attributes:
        features: per class (n, features) of the candidates.
        embed: into the space where sets are means, a class at a time: of all at once it may not fit in memory.
        real: (classes, dim), the mean of the real images of each class in that space.
        alpha, pair_weight, eps: as in :class:`ims3core.s3.objective.Instance`.
    """

    features: list[Tensor]
    embed: Callable[[Tensor], Tensor]
    real: Tensor
    alpha: float
    pair_weight: float
    eps: float

    def candidates(self, i: int) -> Tensor:
        """(n, dim), float32, of class i."""
        return self.embed(self.features[i])


def fourier_features(
    bandwidth: float, *, dim: int, count: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The map x -> sqrt(2 / count) cos(W x + b) of a Gaussian kernel exp(-|x - y|^2 / (2 bandwidth^2))."""
    weights = torch.randn(dim, count, generator=generator) / bandwidth
    phases = 2 * math.pi * torch.rand(count, generator=generator)
    return lambda x: math.sqrt(2 / count) * torch.cos(x.float() @ weights + phases)


def median_distance(features: Tensor, *, most: int = 1000) -> float:
    """The median distance between two of at most ``most`` evenly spaced ``features`` (n, dim)."""
    kept = features[torch.arange(min(most, len(features))) * len(features) // min(most, len(features))].float()
    return torch.pdist(kept).median().item()


def make_problem(
    features: list[Tensor], real: list[Tensor], *, alpha: float, beta: float, eps: float, normalisation: str,
    embed: Callable[[Tensor], Tensor] = Tensor.float,
) -> Problem:  # fmt: skip
    """The problem for ``features`` and ``real``, per class (n, dim) and (m, dim)."""
    means = torch.stack([embed(class_features).mean(0) for class_features in real])
    weight = pair_weight(beta, classes=len(features), normalisation=normalisation)
    return Problem(features, embed, means, alpha, weight, eps)


def evaluate(problem: Problem, chosen: list[Tensor]) -> Objective:
    """The objective of the sets ``chosen``, per class positions: from scratch, in float64."""
    means = torch.stack([problem.embed(problem.features[i][rows]).double().mean(0) for i, rows in enumerate(chosen)])
    means = means / means.norm(dim=1, keepdim=True)
    real = problem.real.double() / problem.real.double().norm(dim=1, keepdim=True)
    closeness = problem.alpha * log_distance((means * real).sum(1), problem.eps).sum().item()
    above = torch.triu_indices(len(means), len(means), offset=1)
    pairs = log_distance((means @ means.T)[above[0], above[1]], problem.eps).sum().item()
    separation = -problem.pair_weight * pairs
    return Objective(closeness + separation, closeness, separation)


@dataclass(frozen=True)
class Search:
    """What :func:`choose` ends in: per class (ipc,) positions in ascending order, and how."""

    chosen: list[Tensor]
    objective: Objective
    sweeps: int
    converged: bool


def choose(
    problem: Problem, ipc: int, *, max_sweeps: int,
    progress: Callable[[Iterable[int]], Iterator[int]] = iter,
) -> Search:  # fmt: skip
    """Sets of ``ipc`` images per class that no swap of one image makes better.

    Class by class images are added greedily, the others' sets as they are so far; then sweeps over the classes try
    every swap of a chosen image for another one and take the best, until a sweep changes nothing.
    """
    classes = len(problem.features)
    state = _State(problem)
    alone = problem.pair_weight == 0  # then no class sees another, and one pass is enough
    for i in progress(range(classes)):
        opened = state.open(i)
        state.fill(opened, ipc)
        if alone:
            state.improve(opened)
    if alone:
        return _finished(problem, state, 1, True)
    for sweep in range(1, max_sweeps + 1):
        moved = [state.improve(state.open(i)) for i in progress(range(classes))]
        if not any(moved):
            return _finished(problem, state, sweep, True)
    return _finished(problem, state, max_sweeps, False)


def _finished(problem: Problem, state: _State, sweeps: int, converged: bool) -> Search:
    chosen = [torch.tensor(sorted(rows)) for rows in state.chosen]
    return Search(chosen, evaluate(problem, chosen), sweeps, converged)


@dataclass(frozen=True)
class _Opened:
    """The candidates of class ``i``, embedded, and their products.

    Attributes:
        points: (n, dim), the candidates.
        gram: (n, n), their products with each other.
        dots: (n, classes), with the targets: the class's own real mean, the means of the other sets.
        others: (classes,) bool, which other classes have a set.
    """

    i: int
    points: Tensor
    gram: Tensor
    dots: Tensor
    others: Tensor


class _State:
    """The sets so far, and the unit means of the classes that have one."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.real = problem.real / problem.real.norm(dim=1, keepdim=True)
        self.chosen: list[list[int]] = [[] for _ in problem.features]
        self.means = torch.zeros_like(self.real)
        self.filled = torch.zeros(len(self.real), dtype=torch.bool)

    def _values(self, i: int, norms: Tensor, dots: Tensor, others: Tensor) -> Tensor:
        """Objective of class i for many sets at once, from ``norms`` (sets,) and products ``dots`` (sets, classes)."""
        norms = norms[:, None].clamp_min(1e-12)
        values = self.problem.alpha * log_distance(dots[:, i : i + 1] / norms, self.problem.eps)[:, 0]
        if self.problem.pair_weight == 0 or not others.any():
            return values
        return values - self.problem.pair_weight * _sum_of_logs(dots[:, others] / norms, self.problem.eps)

    def open(self, i: int) -> _Opened:
        """Class i against the sets as they are now."""
        points = self.problem.candidates(i)
        targets = self.means.clone()
        targets[i] = self.real[i]
        others = self.filled.clone()
        others[i] = False
        return _Opened(i, points, points @ points.T, points @ targets.T, others)

    def fill(self, opened: _Opened, ipc: int) -> None:
        """Adds images greedily until the set of the class is full."""
        i, gram, dots, others = opened.i, opened.gram, opened.dots, opened.others
        chosen: list[int] = []
        square, row, column = gram.new_zeros(()), gram.new_zeros(len(gram)), dots.new_zeros(dots.shape[1])
        for _ in range(ipc):
            norm = (square + 2 * row + gram.diagonal()).clamp_min(0).sqrt()
            values = self._values(i, norm, column[None] + dots, others)
            values[chosen] = torch.inf
            best = int(values.argmin())
            square = square + 2 * row[best] + gram[best, best]
            row, column = row + gram[best], column + dots[best]
            chosen.append(best)
        self._set(opened, chosen)

    def improve(self, opened: _Opened) -> bool:
        """Takes the best swaps of the class until none helps; whether there was one."""
        i, gram, dots, others = opened.i, opened.gram, opened.dots, opened.others
        moved = False
        while True:
            chosen = self.chosen[i]
            row, column = gram[chosen].sum(0), dots[chosen].sum(0)
            square = row[chosen].sum()
            now = self._values(i, square.clamp_min(0).sqrt()[None], column[None], others)[0]
            best, swap = now - 1e-6 * (1 + now.abs()), None
            for place, out in enumerate(chosen):
                rest = square - 2 * row[out] + gram[out, out]
                norm = (rest + 2 * (row - gram[out]) + gram.diagonal()).clamp_min(0).sqrt()
                values = self._values(i, norm, (column - dots[out])[None] + dots, others)
                values[chosen] = torch.inf
                lowest = int(values.argmin())
                if values[lowest] < best:
                    best, swap = values[lowest], (place, lowest)
            if swap is None:
                return moved
            chosen[swap[0]] = swap[1]
            self._set(opened, chosen)
            moved = True

    def _set(self, opened: _Opened, chosen: list[int]) -> None:
        i, mean = opened.i, opened.points[chosen].mean(0)
        self.chosen[i], self.filled[i] = chosen, True
        self.means[i] = mean / mean.norm().clamp_min(1e-12)


def _sum_of_logs(cosine: Tensor, eps: float) -> Tensor:
    """The sum over columns of log(1 - cosine + eps); few logarithms, of products."""
    distances = cosine.clamp_(-1, 1).neg_().add_(1 + eps)
    spare = -distances.shape[1] % TOGETHER
    products = torch.nn.functional.pad(distances, (0, spare), value=1.0).unflatten(1, (-1, TOGETHER))
    return products.prod(-1, dtype=torch.float64).log().sum(1).float()


def lower_bound(problem: Problem) -> float:
    """A value that no choice of sets goes below, whatever their size.

    Closeness: the cosine to the real mean of any non-negative combination of candidates is at most that of the real
    mean's projection on their cone (non-negative least squares). Separation: two means are at most as far apart as
    their farthest candidates, in up to 100 classes; beyond, as two opposite directions.
    """
    from scipy.optimize import nnls

    total = 0.0
    for i, real in enumerate(problem.real):
        target = (real / real.norm()).double()
        # The cone in coordinates of its own: as many as there are candidates, not dimensions.
        basis, points = torch.linalg.qr(problem.candidates(i).double().T)
        inside = basis.T @ target
        gap = nnls(points.numpy(), inside.numpy())[1] ** 2 + max(0.0, 1 - inside.square().sum().item())
        nearest = math.sqrt(max(0.0, 1 - gap))
        total += problem.alpha * math.log(max(1 - nearest, 0.0) + problem.eps)
    classes = len(problem.features)
    if problem.pair_weight == 0:
        return total
    if classes > PAIRS:
        return total - problem.pair_weight * math.comb(classes, 2) * math.log(2 + problem.eps)
    all_candidates = [problem.candidates(i) for i in range(classes)]
    for a, b in itertools.combinations(all_candidates, 2):
        total -= problem.pair_weight * math.log(1 - _least_cosine(a, b) + problem.eps)
    return total


def _least_cosine(a: Tensor, b: Tensor) -> float:
    """A lower bound of the cosine between means of rows of ``a`` and of ``b``.

    Means have at least the smallest product and at most the norm of the longest row; where the smallest product is
    negative, the shortest mean counts, of which only 0 is known. What float32 may round is taken off.
    """
    smallest = (a @ b.T).min().item() - 1e-5
    if smallest < 0:
        return -1.0
    return smallest / (a.norm(dim=1).max() * b.norm(dim=1).max()).item()
