"""What is measured of generators, pools and sets."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from ims3core.base.schema import Entry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Network
    from ims3core.diffusion.schedule import Schedule


class Diagnostic(Entry):
    """A measurement; rows of the table ``diagnostics`` name those of generators."""


class GeneratorDiagnostic(Diagnostic):
    """What is measured of a generator beside the images it makes."""

    @abstractmethod
    def measure(
        self, network: Network, schedule: Schedule, latents: Tensor, label: Tensor, generator: torch.Generator
    ) -> dict[str, list[float]]:
        """Values by the name of what is measured, one list each, with as many numbers as were sampled.

        Args:
            network: class-conditional ``network(z, t, label)`` in evaluation mode.
            latents: clean real latents (N, channels, side, side) on the network's device.
            label: their labels (N,).
            generator: which latents and directions are looked at is random, by it alone.
        """

    def passes(self, values: int) -> float:
        """What it costs, for ``ims3 plan``: forward passes of one latent of so many values; a pass back counts one."""
        return 0.0
