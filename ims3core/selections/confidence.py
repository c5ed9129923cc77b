"""Candidates that the teacher recognises, the most confident first (CaO2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ims3core.params import schema
from ims3core.selections import Candidates, Choice, check_count, ungrouped

if TYPE_CHECKING:
    from torch import Tensor

DETERMINISTIC = False
SOURCES = None
JUDGED = True


class Section(schema.Section):
    factor: schema.Count
    order: Literal["most", "least"]


def need(ipc: int, *, factor: int, order: str) -> int:
    """``factor`` candidates for each image kept."""
    return factor * ipc


def select(candidates: Candidates, *, ipc: int, seed: int, draw: int, factor: int, order: str) -> Choice:
    """Recognised candidates by confidence; where they are too few, the rest by confidence."""
    indices = []
    for c, (own, name) in enumerate(zip(candidates.features, candidates.names, strict=True)):
        check_count(len(own), need(ipc, factor=factor, order=order), name=name, reason=f"confidence.factor x ipc {ipc}")
        indices.append(ranked(candidates.judge(candidates.images(c)), c, order=order)[:ipc])
    return ungrouped(indices)


def ranked(logits: Tensor, class_index: int, *, order: str) -> Tensor:
    """Positions (n,) of candidates with ``logits`` (n, classes): recognised ones first, by probability of the class."""
    import torch

    own = logits.float().softmax(1)[:, class_index]
    known = logits.argmax(1) == class_index
    by_probability = own if order == "least" else -own
    recognised = by_probability.argsort(stable=True)
    return torch.cat([recognised[known[recognised]], (-own).argsort(stable=True)[~known[(-own).argsort(stable=True)]]])
