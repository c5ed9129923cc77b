"""The generator as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.adaptations import Adaptation

if TYPE_CHECKING:
    from ims3core.diffusion.training import Objective


class NoAdaptation(Adaptation):
    """Stands in the place of an adaptation where nothing is trained."""

    trains = False

    def objective(self, *, variational: bool) -> Objective:
        raise NotImplementedError("the adaptation 'none' trains nothing and has no objective")

    def passes(self) -> float:
        return 0.0
