"""Plain fine-tuning on the diffusion loss (Eq. 6): what fine-tuning alone is worth."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ims3core.axes.adaptations import Adaptation

if TYPE_CHECKING:
    from ims3core.diffusion.training import Objective


class Diffusion(Adaptation):
    """``L_diff``, plus the variational term of the learned variance (D7)."""

    def objective(self, *, variational: bool) -> Objective:
        from ims3core.diffusion.losses import denoising_terms

        return partial(denoising_terms, variational=variational)

    def passes(self) -> float:
        """Forward and back."""
        return 2.0
