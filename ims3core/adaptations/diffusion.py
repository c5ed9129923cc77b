"""Plain fine-tuning on the diffusion loss (Eq. 6): what fine-tuning alone is worth."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ims3core.params.schema import Empty as Section  # noqa: F401

if TYPE_CHECKING:
    from ims3core.diffusion.training import Objective


def objective(*, variational: bool) -> Objective:
    """``L_diff``, plus the variational term if ``variational`` (D7)."""
    from ims3core.diffusion.losses import denoising_terms

    return partial(denoising_terms, variational=variational)


def passes() -> float:
    """Forward and back."""
    return 2.0
