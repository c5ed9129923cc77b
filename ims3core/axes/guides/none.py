"""No guide: the sampler starts from noise and knows the class only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.guides import Guide

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser


class NoGuide(Guide):
    """Stands in the place of a guide where none is used."""

    provides = "nothing"

    def prepare(self, latents: Tensor, denoiser: Denoiser | None, label: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def start(self, prepared: dict[str, Tensor], ipc: int, generator: torch.Generator) -> None:
        """None."""
