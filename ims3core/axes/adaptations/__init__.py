"""How the generator is fine-tuned on the real latents."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ims3core.base.schema import Entry

if TYPE_CHECKING:
    from ims3core.diffusion.training import Objective


class Adaptation(Entry):
    """A fine-tuning of the generator.

    Attributes:
        trains: whether there is anything to train.
    """

    trains: ClassVar[bool] = True

    @abstractmethod
    def objective(self, *, variational: bool) -> Objective:
        """A new function ``(network, schedule, batch) -> {name: scalar}`` of loss terms whose sum is minimised.

        Everything random about a step is in the batch. An objective that remembers earlier steps is a
        :class:`~ims3core.diffusion.training.StatefulObjective`.

        Args:
            variational: also train the variance channels (D7).
        """

    @abstractmethod
    def passes(self) -> float:
        """The work of one step in forward passes of the network; a backward pass through frozen weights counts one."""
