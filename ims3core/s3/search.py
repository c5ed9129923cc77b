"""Selective Subgroup Sampling: one candidate group per class by coordinate descent (paper Eq. 11, Alg. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ims3core.errors import ParameterError
from ims3core.s3.centroids import first_minimum
from ims3core.s3.objective import (
    MAX_MATRIX_BYTES,
    Instance,
    Objective,
    block,
    check_coincidence,
    evaluate,
    log_distance,
    matrix_fits,
    pair_logs,
    unary_logs,
)


@dataclass(frozen=True)
class GroupChoice:
    """The outcome of :func:`select_groups`.

    ``choice`` is (classes,) long; ``sweeps`` and ``converged`` belong to the descent that was kept;
    ``start_objectives`` and ``end_objectives`` have one entry per restart.
    """

    choice: Tensor
    objective: Objective
    sweeps: int
    converged: bool
    start_objectives: tuple[float, ...]
    end_objectives: tuple[float, ...]
    engine: str


class _Blockwise:
    """The log-distances a trial sums up, made when asked for from the centroids chosen now."""

    name = "blockwise"

    def __init__(self, problem: Instance) -> None:
        self.problem = problem

    def start(self, choice: Tensor) -> None:
        self.columns = self.problem.groups[torch.arange(len(choice)), choice]  # (classes, dim)

    def move(self, i: int, group: int) -> None:
        self.columns[i] = self.problem.groups[i, group]

    def row(self, i: int) -> Tensor:
        return block(self.problem, i, self.columns)

    def some(self, i: int, others: Tensor, groups: Tensor) -> Tensor:
        return log_distance(self.problem.groups[i] @ self.problem.groups[others, groups].T, self.problem.eps)


class _Matrix:
    """The same log-distances read from the whole matrix.

    Whole blocks are the same bit for bit: every entry of :func:`pair_logs` comes from :func:`block` as well, a
    matrix product of one shape in which class i's groups are the rows and class j is column j, and both engines
    hand over contiguous (groups, classes) tensors, so the sums over them are equal too. Single columns may differ in
    the last bit, far below the tolerance that decides a tie.
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

    def some(self, i: int, others: Tensor, groups: Tensor) -> Tensor:
        return self.matrix[i, groups, :, others].T


class _Sums:
    """The sum over the other classes of log d(c_{i,g}, their chosen centroid), for every group g of a visited class.

    A class that comes round again adds what the moves since its last visit changed, which late sweeps have few of;
    where they were many, or at its first visit, it sums its whole block.
    """

    def __init__(self, problem: Instance, engine: _Blockwise | _Matrix) -> None:
        self.problem, self.engine = problem, engine
        self.values = torch.zeros(problem.groups.shape[:2], dtype=torch.float64)
        self.included: list[int | None] = [None] * len(self.values)  # moves that the sums of a class include
        self.moves: list[tuple[int, int, int]] = []  # class, group before, group after

    def visit(self, i: int) -> Tensor:
        """(groups,), up to date."""
        last = self.included[i]
        recent = None if last is None else [move for move in self.moves[last:] if move[0] != i]
        if recent is None or 4 * len(recent) > len(self.values):
            self.values[i] = self._checked(i, self.engine.row(i)).sum(1)
        elif recent:
            others, before, after = torch.tensor(recent).T
            gained = self._checked(i, self.engine.some(i, others, after))
            self.values[i] += (gained - self.engine.some(i, others, before)).sum(1)
        self.included[i] = len(self.moves)
        return self.values[i]

    def _checked(self, i: int, logs: Tensor) -> Tensor:
        what = f"a candidate of class {i} and the chosen centroid of another class"
        check_coincidence(logs, self.problem.eps, what)
        return logs


def _descend(
    problem: Instance, unary: Tensor, engine: _Blockwise | _Matrix, choice: Tensor, max_sweeps: int
) -> tuple[int, bool]:
    """Coordinate descent in class order, moving ``choice`` in place; (sweeps begun, converged)."""
    classes = len(choice)
    engine.start(choice)
    sums = _Sums(problem, engine)
    settled = 0  # classes in a row that are at their best; all of them is what a sweep without a move shows
    for sweep in range(1, max_sweeps + 1):
        for i in range(classes):
            values = problem.alpha * unary[i] - problem.pair_weight * sums.visit(i)
            best, now = first_minimum(values), int(choice[i])
            settled += 1
            # A gain within rounding is none: it keeps ties still and the descent from going round in circles.
            if values[best] < values[now] - 1e-10 * (1 + values[now].abs()):
                choice[i] = best
                engine.move(i, best)
                sums.moves.append((i, now, best))
                settled = 1
            if settled >= classes:
                return sweep, True
    return max_sweeps, False


def select_groups(
    problem: Instance, *, start: str, restarts: int, max_sweeps: int,
    generator: torch.Generator | None = None, max_matrix_bytes: int = MAX_MATRIX_BYTES,
) -> GroupChoice:  # fmt: skip
    """The group of each class that coordinate descent on Eq. 10 ends in (paper Alg. 2).

    Class by class all groups are tried with the others fixed and the best is kept; a tie stays, or goes to the
    lowest group. It stops once every class in a row has kept its group, so a converged choice is a local
    optimum: no change of a single class lowers the objective.

    Args:
        start: 'nearest' takes per class the group nearest to its real centroid (the authors' code), 'random'
            draws it from ``generator`` (the paper).
        restarts: number of descents; the first from ``start``, further ones from random choices; the best is kept.
        max_sweeps: limit per descent; ``converged`` says whether it was enough.
        generator: needed where a start is random.
        max_matrix_bytes: whole log-distance matrix where it fits, blocks made when needed elsewhere; same choices.

    Differs: a tie is decided with a tolerance of 1e-10, so that equal candidates do not depend on rounding.

    Raises:
        NumericsError: eps is 0 and two centroids that were tried coincide.
    """
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
    ends = torch.tensor([objective.total for objective, *_ in runs], dtype=torch.float64)
    objective, choice, sweeps, converged = runs[first_minimum(ends)]
    return GroupChoice(
        choice, objective, sweeps, converged, tuple(start_objectives), tuple(ends.tolist()), engine=engine.name
    )
