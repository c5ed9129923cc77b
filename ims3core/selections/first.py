"""The first IPC candidates of a draw: independent samples of the generator (the rows DiT and IM)."""

from __future__ import annotations

from ims3core.params.schema import Empty as Section  # noqa: F401
from ims3core.selections import Candidates, Choice, check_count, ungrouped

DETERMINISTIC = False
SOURCES = ("generated", "noise", "text_to_image")


def need(ipc: int) -> int:
    """As many as are kept."""
    return ipc


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
    """Candidates 0 .. ipc - 1 of each class."""
    import torch

    for own, name in zip(candidates.features, candidates.names, strict=True):
        check_count(len(own), ipc, name=name, reason=f"ipc {ipc}")
    return ungrouped([torch.arange(ipc) for _ in candidates.features])
