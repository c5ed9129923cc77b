"""Selective Subgroup Sampling: one of several groups of candidates per class (paper Eq. 9-11, Alg. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.selections import Candidates, Choice, Selection
from ims3core.base.schema import Count, NonNegative

if TYPE_CHECKING:
    from ims3core.s3.objective import Instance


class S3(Selection):
    """One of ``groups`` runs of IPC consecutive candidates per class."""

    sources = ("generated", "text_to_image")

    alpha: NonNegative = Field(description="alpha, weight of closeness to the real centroid (Eq. 10)")
    beta: NonNegative = Field(description="beta, weight of separation between classes (Eq. 10)")
    groups: Count = Field(description="m, candidate subgroups per class (G in the public code)")
    normalisation: Literal["paper", "official"] = Field(
        description="paper: beta / (C - 1) over ordered pairs of classes; official: beta over unordered pairs (D12)"
    )
    start: Literal["nearest", "random"] = Field(
        description="the search starts from the group nearest to the real centroid, or a random one (Algorithm 2; D13)"
    )
    restarts: Count = Field(description="searches; all but the first start at random, the best result is kept")
    max_sweeps: Count = Field(description="passes over the classes; a search ends when a pass changes nothing")
    eps: NonNegative = Field(description="added to distances before the logarithm (D14)")

    def candidates_needed(self, ipc: int) -> int:
        return self.groups * ipc

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        import torch

        from ims3core.base import seeds
        from ims3core.s3 import bounds, search

        candidates.require(self.candidates_needed(ipc), f"s3.groups {self.groups} x ipc {ipc}")
        problem = self._problem(candidates, ipc)
        selection = search.select_groups(
            problem, start=self.start, restarts=self.restarts, max_sweeps=self.max_sweeps,
            generator=seeds.generator(seed, "s3-start", draw, ipc),
        )  # fmt: skip
        groups: list[int] = selection.choice.tolist()
        indices = [torch.arange(group * ipc, (group + 1) * ipc) for group in groups]
        search_facts = {"sweeps": selection.sweeps, "converged": selection.converged, "engine": selection.engine}
        return Choice(indices, [*groups], {**bounds.gap(selection, problem), **search_facts})

    def _problem(self, candidates: Candidates, ipc: int) -> Instance:
        """Eq. 10 for the groups' centroids; class by class, as their float64 features may not fit in memory at once."""
        import torch

        from ims3core.s3 import centroids, objective

        count = self.candidates_needed(ipc)
        groups = [
            centroids.group_centroids(features[:count].view(1, self.groups, ipc, -1))
            for features in candidates.features
        ]
        return objective.make_instance(
            torch.cat(groups), candidates.real_centroids, alpha=self.alpha, beta=self.beta, eps=self.eps,
            normalisation=self.normalisation,
        )  # fmt: skip
