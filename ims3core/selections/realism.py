"""Crops that the teacher recognises best, four of them in each image (RDED)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.params import schema
from ims3core.selections import Candidates, Choice, check_count

if TYPE_CHECKING:
    from torch import Tensor

DETERMINISTIC = False
SOURCES = ("crops",)
JUDGED = True
TILES = 4


class Section(schema.Section):
    crops: schema.Count


def need(ipc: int, *, crops: int) -> int:
    """Four images' crops for each image kept, at least."""
    return TILES * ipc * crops


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int, crops: int) -> Choice:
    """The best crop of each image, and of these the best 4 x IPC; image r holds ranks r, r + K, r + 2K and r + 3K."""
    indices = []
    for c, (own, name) in enumerate(zip(candidates.features, candidates.names, strict=True)):
        check_count(len(own), need(ipc, crops=crops), name=name, reason=f"{TILES} tiles x ipc {ipc} x {crops} crops")
        indices.append(best_crops(candidates.judge(candidates.images(c)), c, crops=crops, ipc=ipc))
    return Choice(indices, [None] * len(indices), tiles=TILES)


def best_crops(logits: Tensor, class_index: int, *, crops: int, ipc: int) -> Tensor:
    """Positions (ipc * 4,) of crops with ``logits`` (n, classes), tile by tile of each image.

    The score is the cross-entropy of the class; ``crops`` consecutive candidates are crops of one image.
    """
    import torch
    from torch.nn import functional as F

    wanted = torch.full((len(logits),), class_index, device=logits.device)
    score = F.cross_entropy(logits.float(), wanted, reduction="none").view(-1, crops)
    best = score.argmin(1)
    order = score.gather(1, best[:, None])[:, 0].argsort(stable=True)[: TILES * ipc]
    kept = order * crops + best[order]
    return kept.view(TILES, ipc).T.flatten()
