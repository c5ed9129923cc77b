"""How far a selection is from the best one: the optimum by enumeration, or a lower bound of Eq. 10.

Minimising Eq. 10 is a pairwise labelling problem: class i takes the label g_i at the cost
U_i(g) = alpha log(d(c_{i,g}, r_i) + eps), two classes pay W_ij(g, h) = -pair_weight log(d(c_{i,g}, c_{j,h}) + eps).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ims3core.errors import ParameterError
from ims3core.s3.centroids import first_minimum
from ims3core.s3.objective import (
    MAX_MATRIX_BYTES,
    Instance,
    Objective,
    check_coincidence,
    evaluate,
    log_distance,
    matrix_fits,
    pair_logs,
    unary_logs,
)
from ims3core.s3.search import GroupChoice

CHUNK_BYTES = 64 * 2**20
LIMIT = 10_000_000  # choices that an exhaustive search may try


@dataclass(frozen=True)
class Optimum:
    """The best choice, (classes,) long, and its objective."""

    choice: Tensor
    objective: Objective


@dataclass(frozen=True)
class Bound:
    """A value no selection goes below; ``history`` has the simple bound, then the value after each round."""

    value: float
    kind: str
    history: tuple[float, ...]


def exhaustive(problem: Instance, *, limit: int = LIMIT) -> Optimum:
    """The global minimum of Eq. 10 by trying all groups**classes choices; a tie goes to the first in order.

    Takes about 24 bytes per choice.

    Raises:
        ParameterError: there are more than ``limit`` choices.
        NumericsError: eps is 0 and two centroids coincide.
    """
    classes, groups, _ = problem.groups.shape
    if groups**classes > limit:
        raise ParameterError(
            f"s3.groups: found {groups} groups for {classes} classes, more than the {limit} choices an exhaustive "
            "search may try"
        )
    if groups == 1:
        only = torch.zeros(classes, dtype=torch.long)
        return Optimum(only, evaluate(problem, only))
    unary = problem.alpha * unary_logs(problem)
    costs = unary[0]  # of every choice for the classes so far, the first class changing slowest
    for n in range(1, classes):
        costs = costs[:, None] + unary[n]  # (groups ** n, groups)
        for i in range(n):
            # Class i is one digit of the row number; its pair cost is the same for all other digits.
            costs.view(groups**i, groups, -1, groups).add_(_pair_costs(problem, i, n)[:, None, :])
        costs = costs.flatten()
    best = first_minimum(costs)
    choice = torch.tensor([best // groups ** (classes - 1 - i) % groups for i in range(classes)])
    return Optimum(choice, evaluate(problem, choice))


def _pair_costs(problem: Instance, i: int, j: int) -> Tensor:
    """W_ij, (groups, groups)."""
    logs = log_distance(problem.groups[i] @ problem.groups[j].T, problem.eps)
    check_coincidence(logs, problem.eps, f"a candidate of class {i} and one of class {j}")
    return -problem.pair_weight * logs


def lower_bound(problem: Instance, *, rounds: int = 30, max_matrix_bytes: int = MAX_MATRIX_BYTES) -> Bound:
    """A lower bound of Eq. 10 over all choices: 'dual' where the log-distance matrix fits, 'simple' elsewhere.

    'simple' lets every class choose its own best group while each other class answers with its best one:
    sum_i min_g [U_i(g) + 1/2 sum_j min_h W_ij(g, h)]. 'dual' starts there and moves costs between pairs and
    classes by the handshake updates of MPLP++ (Tourani et al., ECCV 2018), which never lower the bound. Valid up to
    float64 rounding.
    """
    unary = problem.alpha * unary_logs(problem)
    if len(unary) == 1 or not matrix_fits(problem, max_matrix_bytes):
        value = (unary + _halves_blockwise(problem)).min(1).values.sum().item()
        return Bound(value, "simple", (value,))
    history = _ascend(problem, unary, rounds)
    return Bound(history[-1], "dual", tuple(history))


def _halves_blockwise(problem: Instance) -> Tensor:
    """1/2 sum_j min_h W_ij(g, h), (classes, groups), from blocks of bounded size.

    W falls with the distance, so the minimum over h is taken on the cosines, before any logarithm.
    """
    classes, groups, dim = problem.groups.shape
    logs = problem.groups.new_zeros(classes, groups)
    width = max(1, CHUNK_BYTES // (8 * groups**2))  # classes per chunk
    for i in range(classes):
        for first in range(i + 1, classes, width):
            others = problem.groups[first : first + width]
            cosine = (problem.groups[i] @ others.reshape(-1, dim).T).view(groups, -1, groups)
            logs[i] += log_distance(cosine.amin(2), problem.eps).sum(1)
            logs[first : first + width] += log_distance(cosine.amin(0), problem.eps)
    return -0.5 * problem.pair_weight * logs


def _matchings(classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every unordered pair once, as rounds of pairs without a common class (the circle method of tournaments)."""
    seats = classes + classes % 2
    around = torch.arange(seats - 1)
    for turn in range(seats - 1):
        circle = torch.cat([torch.tensor([seats - 1]), around.roll(turn)])
        a, b = circle[: seats // 2], circle[seats // 2 :].flip(0)
        present = torch.maximum(a, b) < classes  # with an odd number one class sits out
        yield torch.minimum(a, b)[present], torch.maximum(a, b)[present]


def _ascend(problem: Instance, unary: Tensor, rounds: int) -> list[float]:
    """The simple bound and the dual bound after each round of handshakes over all pairs of classes."""
    logs = pair_logs(problem)  # [i, h, g, j]
    check_coincidence(logs, problem.eps, "candidates of two classes")
    # messages[i, j, g]: the part of W_ij that class i carries; (classes, classes, groups)
    messages = (-0.5 * problem.pair_weight * logs.amax(1)).transpose(1, 2).contiguous()
    costs = unary + messages.sum(1)  # what is left to each class, (classes, groups)
    history = [costs.min(1).values.sum().item()]
    matchings = list(_matchings(len(unary)))
    for turn in range(rounds):
        for pair in matchings:
            # Pairs of one matching share no class, so updating them together equals updating them one by one.
            a, b = pair if turn % 2 == 0 else pair[::-1]
            rest_a, rest_b = costs[a] - messages[a, b], costs[b] - messages[b, a]
            # logs[a, :, :, b] is (pairs, h, g): the label of a comes last.
            joint = rest_a[:, None, :] + rest_b[:, :, None] - problem.pair_weight * logs[a, :, :, b]
            half_a = 0.5 * joint.amin(1)
            joint -= half_a[:, None, :]
            new_b = joint.amin(2)
            joint -= new_b[:, :, None]
            new_a = half_a + joint.amin(1)
            costs[a], costs[b] = new_a, new_b
            messages[a, b], messages[b, a] = new_a - rest_a, new_b - rest_b
        # After a handshake the minimum left inside a pair is 0, so the classes alone make the bound.
        history.append(costs.min(1).values.sum().item())
    return history


def gap(
    selection: GroupChoice, problem: Instance, *, limit: int = LIMIT, rounds: int = 30,
    max_matrix_bytes: int = MAX_MATRIX_BYTES,
) -> dict[str, float | str]:  # fmt: skip
    """The objective of ``selection``, its terms, the best bound affordable and their difference.

    ``bound_kind`` is 'exhaustive' (the optimum) up to ``limit`` choices, then 'dual' or 'simple' as
    in :func:`lower_bound`. ``gap`` is never negative: rounding is taken off the bound.
    """
    classes, groups, _ = problem.groups.shape
    if groups**classes <= limit:
        bound = Bound(exhaustive(problem, limit=limit).objective.total, "exhaustive", ())
    else:
        bound = lower_bound(problem, rounds=rounds, max_matrix_bytes=max_matrix_bytes)
    objective = selection.objective
    value = min(bound.value, objective.total)
    return {
        "objective": objective.total, "closeness": objective.closeness, "separation": objective.separation,
        "bound": value, "bound_kind": bound.kind, "gap": objective.total - value,
    }  # fmt: skip
