"""Candidates that the teacher recognises, the most confident first (CaO2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped
from ims3core.base.schema import Count

if TYPE_CHECKING:
    from torch import Tensor


class Confidence(Selection):
    """Recognised candidates by confidence; where they are too few, the rest by confidence."""

    needs_teacher = True

    factor: Count = Field(description="candidates for each image kept (CaO2: 4; ImageNette 2)")
    order: Literal["most", "least"] = Field(
        description="most or least confident of the recognised ones first (CaO2's code: least at IPC 50)"
    )

    def candidates_needed(self, ipc: int) -> int:
        return self.factor * ipc

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        candidates.require(self.candidates_needed(ipc), f"confidence.factor x ipc {ipc}")
        logits = (candidates.teacher(candidates.images(c)) for c in range(len(candidates.names)))
        return ungrouped([ranked(values, c, order=self.order)[:ipc] for c, values in enumerate(logits)])


def ranked(logits: Tensor, class_index: int, *, order: Literal["most", "least"]) -> Tensor:
    """Positions (n,) of candidates with ``logits`` (n, classes): recognised ones first, by probability of the class."""
    import torch

    probability = logits.float().softmax(1)[:, class_index]
    recognised = logits.argmax(1) == class_index
    first = (probability if order == "least" else -probability).argsort(stable=True)
    rest = (-probability).argsort(stable=True)
    return torch.cat([first[recognised[first]], rest[~recognised[rest]]])
