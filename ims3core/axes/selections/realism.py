"""Crops that the teacher recognises best, four of them in each image (RDED)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped
from ims3core.base.schema import Count

if TYPE_CHECKING:
    from torch import Tensor

TILES = 4


class Realism(Selection):
    """The best crop of each image, and of these the best 4 x IPC; image r holds ranks r, r + K, r + 2K and r + 3K."""

    sources = ("crops",)
    needs_teacher = True

    crops: Count = Field(description="crops of each image, of which the best one is taken (RDED: 5)")

    def candidates_needed(self, ipc: int) -> int:
        return TILES * ipc * self.crops

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        candidates.require(self.candidates_needed(ipc), f"{TILES} tiles x ipc {ipc} x {self.crops} crops")
        logits = (candidates.teacher(candidates.images(c)) for c in range(len(candidates.names)))
        indices = [best_crops(values, c, crops=self.crops, ipc=ipc) for c, values in enumerate(logits)]
        return ungrouped(indices, tiles=TILES)


def best_crops(logits: Tensor, class_index: int, *, crops: int, ipc: int) -> Tensor:
    """Positions (ipc * 4,) of crops with ``logits`` (n, classes), tile by tile of each image.

    The score is the cross-entropy of the class; ``crops`` consecutive candidates are crops of one image.
    """
    import torch
    from torch.nn import functional as F

    target = torch.full((len(logits),), class_index, device=logits.device)
    score = F.cross_entropy(logits.float(), target, reduction="none").view(-1, crops)
    best = score.argmin(1)
    order = score.gather(1, best[:, None])[:, 0].argsort(stable=True)[: TILES * ipc]
    kept = order * crops + best[order]
    return kept.view(TILES, ipc).T.flatten()
