"""A seeded random draw per class; the sets of one draw nest across IPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped

if TYPE_CHECKING:
    import torch


class Random(Selection):
    """A random subset of each class, by a generator of its own."""

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        from ims3core.base.seeds import generator

        candidates.require(ipc, f"ipc {ipc}")
        generators = [generator(seed, "random-subset", draw, i) for i in range(len(candidates.features))]
        return ungrouped(
            [random_subset(len(points), ipc, g) for points, g in zip(candidates.features, generators, strict=True)]
        )


def random_subset(count: int, ipc: int, generator: torch.Generator) -> torch.Tensor:
    """The first ``ipc`` of one random permutation of ``count`` images, so that sets nest across ipc."""
    import torch

    return torch.randperm(count, generator=generator)[:ipc]
