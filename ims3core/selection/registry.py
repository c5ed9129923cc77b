"""The selection axis: every way to keep ``ipc`` candidates per class, by the name used in params.yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ims3core import seeds
from ims3core.errors import ParameterError
from ims3core.selection import bounds, centroids, coreset, s3


@dataclass(frozen=True)
class Choice:
    """What a selection keeps.

    ``indices`` holds per class the (ipc,) positions, long, within that class's candidates of this draw; ``groups``
    the group they make up, or None where groups play no part; ``report`` JSON-able scalars about the choice.
    """

    indices: list[Tensor]
    groups: list[int | None]
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selector:
    """One entry of the registry; ``deterministic`` says that the choice ignores ``seed`` and ``draw``."""

    run: Callable[..., Choice]
    deterministic: bool = False

    def __call__(self, features: list[Tensor], **arguments: Any) -> Choice:
        return self.run(features, **arguments)


def _ungrouped(indices: list[Tensor]) -> Choice:
    return Choice(indices, [None] * len(indices))


def _first(
    features: list[Tensor], *, ipc: int, real_centroids: Tensor | None, seed: int, draw: int, names: list[str]
) -> Choice:
    """Candidates 0 .. ipc - 1 of each class: independent draws of the generator."""
    for own, name in zip(features, names, strict=True):
        coreset.check_count(len(own), ipc, name=name, reason=f"ipc {ipc}")
    return _ungrouped([torch.arange(ipc) for _ in features])


def _random(
    features: list[Tensor], *, ipc: int, real_centroids: Tensor | None, seed: int, draw: int, names: list[str]
) -> Choice:
    """A seeded draw per class; the sets of one draw nest across ipc."""
    return _ungrouped(
        [
            coreset.random_subset(len(own), ipc, seeds.generator(seed, "random-subset", draw, i), name=name)
            for i, (own, name) in enumerate(zip(features, names, strict=True))
        ]
    )


def _herding(
    features: list[Tensor], *, ipc: int, real_centroids: Tensor | None, seed: int, draw: int, names: list[str]
) -> Choice:
    """Herding within each class."""
    return _ungrouped([coreset.herding(own, ipc, name=name) for own, name in zip(features, names, strict=True)])


def _k_center(
    features: list[Tensor], *, ipc: int, real_centroids: Tensor | None, seed: int, draw: int, names: list[str]
) -> Choice:
    """Greedy k-center within each class."""
    return _ungrouped([coreset.k_center(own, ipc, name=name) for own, name in zip(features, names, strict=True)])


def _s3(
    features: list[Tensor],
    *,
    ipc: int,
    real_centroids: Tensor | None,
    seed: int,
    draw: int,
    names: list[str],
    alpha: float,
    beta: float,
    groups: int,
    normalisation: str,
    start: str,
    restarts: int,
    max_sweeps: int,
    eps: float,
) -> Choice:
    """Selective Subgroup Sampling: one of ``groups`` runs of ``ipc`` consecutive candidates per class (Alg. 2)."""
    if real_centroids is None:
        raise ParameterError("s3: found no real centroids, wanted one per class; the method's `centroids` names them")
    used = groups * ipc
    for own, name in zip(features, names, strict=True):
        coreset.check_count(len(own), used, name=name, reason=f"s3.groups {groups} x ipc {ipc}")
    # Class by class, so that the float64 work never holds more than one class's candidates.
    candidates = torch.cat([centroids.group_centroids(own[:used].view(1, groups, ipc, -1)) for own in features])
    weights: dict[str, Any] = {"alpha": alpha, "beta": beta, "eps": eps, "normalisation": normalisation}
    selection = s3.select_groups(
        candidates,
        real_centroids,
        **weights,
        start=start,
        restarts=restarts,
        max_sweeps=max_sweeps,
        generator=seeds.generator(seed, "s3-start", draw, ipc),
    )
    report = bounds.gap(selection, candidates, real_centroids, **weights)
    picked = selection.choice.tolist()
    return Choice(
        indices=[torch.arange(g * ipc, (g + 1) * ipc) for g in picked],
        groups=picked,
        report={**report, "sweeps": selection.sweeps, "converged": selection.converged, "engine": selection.engine},
    )


SELECTIONS: dict[str, Selector] = {
    "first": Selector(_first),
    "random": Selector(_random),
    "herding": Selector(_herding, deterministic=True),
    "k_center": Selector(_k_center, deterministic=True),
    "s3": Selector(_s3),
}


def select(
    name: str,
    features: list[Tensor],
    *,
    ipc: int,
    real_centroids: Tensor | None,
    seed: int,
    draw: int,
    names: list[str],
    **section: Any,
) -> Choice:
    """The candidates that selection ``name`` keeps.

    Args:
        features: per class (n_c, dim), unit norm, one row per candidate of this draw.
        ipc: images to keep per class.
        real_centroids: (classes, dim), for the selections that compare with real images.
        names: the classes' names, for error messages.
        section: the keys of the parameter section ``name``.

    Raises:
        ParameterError: no selection of that name.
        DataError: a class has too few candidates.
    """
    if name not in SELECTIONS:
        raise ParameterError(f"selection: {name!r} is unknown; known: {', '.join(sorted(SELECTIONS))}")
    return SELECTIONS[name](
        features, ipc=ipc, real_centroids=real_centroids, seed=seed, draw=draw, names=names, **section
    )
