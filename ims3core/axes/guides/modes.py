"""Modes of a class's latents: one k-means cluster for each image (MGD3, D4M)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.guides import Guide
from ims3core.base.schema import Count
from ims3core.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser


class Modes(Guide):
    """As many modes as images per class, anew for each IPC and draw."""

    provides = "targets"
    per_ipc = True

    finder: Literal["centre", "nearest", "random"] = Field(
        description="mode of a cluster: its centre | the real latent nearest to it | random latents, no clusters"
    )
    restarts: Count = Field(description="of k-means")

    def prepare(self, latents: Tensor, denoiser: Denoiser | None, label: int) -> dict[str, Tensor]:
        """The latents themselves: how many clusters there are is decided by the IPC."""
        return {"latents": latents}

    def start(self, prepared: dict[str, Tensor], ipc: int, generator: torch.Generator) -> Tensor:
        """``ipc`` modes: the centres of scikit-learn's k-means, the real latents nearest to them, or random latents.

        Raises:
            DataError: the class has fewer latents than ``ipc``.
        """
        import torch

        from ims3core.diffusion.latents import k_means

        latents = prepared["latents"]
        if len(latents) < ipc:
            raise DataError(f"guide modes: a class has {len(latents)} training images, wanted at least IPC {ipc}")
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        if self.finder == "random":
            return latents[torch.randperm(len(latents), generator=generator)[:ipc]]
        centres, _ = k_means(latents, ipc, restarts=self.restarts, seed=seed)
        if self.finder == "nearest":
            return latents[torch.cdist(centres, latents.flatten(1).double()).argmin(1)]
        return centres.float().view(ipc, *latents.shape[1:])
