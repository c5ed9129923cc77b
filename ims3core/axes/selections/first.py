"""The first IPC candidates of a draw: independent samples of the generator (the rows DiT and IM)."""

from __future__ import annotations

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped


class First(Selection):
    """The candidates 0 .. IPC - 1 of each class."""

    sources = ("generated", "noise", "text_to_image")

    def candidates_needed(self, ipc: int) -> int:
        return ipc

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        import torch

        candidates.require(ipc, f"ipc {ipc}")
        return ungrouped([torch.arange(ipc) for _ in candidates.features])
