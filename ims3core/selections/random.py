"""A seeded random draw per class; the sets of one draw nest across IPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params.schema import Empty as Section  # noqa: F401
from ims3core.selections import Candidates, Choice, check_count, ungrouped

if TYPE_CHECKING:
    import torch

DETERMINISTIC = False
SOURCES = None


def need(ipc: int) -> None:
    """All there are."""


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
    """Each class by a generator of its own."""
    from ims3core.base.seeds import generator

    return ungrouped(
        [
            random_subset(len(own), ipc, generator(seed, "random-subset", draw, i), name=name)
            for i, (own, name) in enumerate(zip(candidates.features, candidates.names, strict=True))
        ]
    )


def random_subset(count: int, ipc: int, generator: torch.Generator, *, name: str = "of this call") -> torch.Tensor:
    """The first ``ipc`` of one random permutation of ``count`` images, so that sets nest across ipc.

    Raises:
        DataError: the class has fewer than ``ipc`` images.
    """
    import torch

    check_count(count, ipc, name=name, reason=f"ipc {ipc}")
    return torch.randperm(count, generator=generator)[:ipc]
