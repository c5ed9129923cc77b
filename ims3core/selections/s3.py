"""Selective Subgroup Sampling: one of several groups of candidates per class (paper Eq. 9-11, Alg. 2)."""

from __future__ import annotations

from typing import Any, Literal

from ims3core.params import schema
from ims3core.selections import Candidates, Choice, check_count
from ims3core.shell.errors import ParameterError

DETERMINISTIC = False
SOURCES = ("generated", "text_to_image")


class Section(schema.Section):
    alpha: schema.NonNegative
    beta: schema.NonNegative
    groups: schema.Count
    normalisation: Literal["paper", "official"]
    start: Literal["nearest", "random"]
    restarts: schema.Count
    max_sweeps: schema.Count
    eps: schema.NonNegative


def need(ipc: int, *, groups: int, **section: Any) -> int:
    """Every group has the size of the set."""
    return groups * ipc


def select(
    candidates: Candidates,
    *,
    ipc: int,
    seed: int,
    draw: int,
    alpha: float,
    beta: float,
    groups: int,
    normalisation: str,
    start: str,
    restarts: int,
    max_sweeps: int,
    eps: float,
) -> Choice:
    """One of ``groups`` runs of ``ipc`` consecutive candidates per class."""
    import torch

    from ims3core.base import seeds
    from ims3core.subgroups import bounds, centroids, search

    if candidates.real_centroids is None:
        raise ParameterError("s3: found no real centroids, wanted one per class; the method's `centroids` names them")
    used = need(ipc, groups=groups)
    for own, name in zip(candidates.features, candidates.names, strict=True):
        check_count(len(own), used, name=name, reason=f"s3.groups {groups} x ipc {ipc}")
    # Class by class, so that the float64 work never holds more than one class's candidates.
    groups_of = [centroids.group_centroids(own[:used].view(1, groups, ipc, -1)) for own in candidates.features]
    weights: dict[str, Any] = {"alpha": alpha, "beta": beta, "eps": eps, "normalisation": normalisation}
    problem = (torch.cat(groups_of), candidates.real_centroids)
    selection = search.select_groups(
        *problem, **weights, start=start, restarts=restarts, max_sweeps=max_sweeps,
        generator=seeds.generator(seed, "s3-start", draw, ipc),
    )  # fmt: skip
    picked = selection.choice.tolist()
    return Choice(
        indices=[torch.arange(g * ipc, (g + 1) * ipc) for g in picked],
        groups=picked,
        report={
            **bounds.gap(selection, *problem, **weights),
            "sweeps": selection.sweeps, "converged": selection.converged, "engine": selection.engine,
        },
    )  # fmt: skip
