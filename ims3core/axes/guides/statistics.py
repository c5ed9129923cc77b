"""Moments of a class's inverted latents, and the best of many sets drawn from them (D3HR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.guides import Guide
from ims3core.base.schema import Count, Index, OpenFraction, Positive
from ims3core.errors import NumericsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser

SKEWNESS_WEIGHT = 0.1
CHUNK_VALUES = 2**24  # drawn values that are scored at once
BATCH_VALUES = 2**18  # values of the latents that are inverted at once


class Statistics(Guide):
    """A diagonal Gaussian of each class at a noise level; sets of points are drawn, the best moments win."""

    provides = "starts"
    per_ipc = True
    needs_network = True

    steps: Count = Field(description="timesteps of the respaced grid (public code: 50)")
    level: OpenFraction = Field(description="share of the grid that is inverted (public code: 31 of 50)")
    guidance: Positive = Field(description="scale of classifier-free guidance of the inversion (public code: 4)")
    guided_channels: Index = Field(description="latent channels that are guided (public code: all)")
    sets: Count = Field(description="candidate sets, of which the best moments win (public code: 1e5)")
    skewness: Literal["per_dimension", "official"] = Field(
        description="per_dimension: over the points | official: over the dimensions of each point, as the public code"
    )

    def prepare(self, latents: Tensor, denoiser: Denoiser | None, label: int) -> dict[str, Tensor]:
        """Mean and standard deviation per dimension, (channels, side, side), of the latents inverted to ``level``."""
        import torch

        assert denoiser is not None, "needs_network"
        batch = max(1, BATCH_VALUES // latents[0].numel())
        with torch.inference_mode():
            inverted = torch.cat([self.invert_guided(denoiser, part, label) for part in latents.split(batch)]).double()
        return {"mean": inverted.mean(0).float(), "std": inverted.std(0, correction=0).float()}

    def invert_guided(self, denoiser: Denoiser, z0: Tensor, label: int) -> Tensor:
        """The latents (B, ...) after Euler steps of the guided prediction up the grid (Eq. 3), float32 on the CPU."""
        import torch

        from ims3core.diffusion.inversion import inversion_step
        from ims3core.diffusion.schedule import respace

        schedule = respace(denoiser.schedule, self.steps)
        z = z0.to(denoiser.device)
        labels = torch.full((len(z),), label, device=denoiser.device)
        alpha_bar = torch.ones(1, 1, 1, 1, device=z.device)
        for index in range(self._inverted_steps()):
            # The network sees the level it stands at; clean latents count as the first.
            t = schedule.timesteps[max(0, index - 1)].to(z.device).expand(len(z))
            eps_hat = denoiser(z, t, labels, guidance=self.guidance, guided_channels=self.guided_channels).eps
            alpha_bar_next = schedule.alpha_bar[index].to(z).view(1, 1, 1, 1)
            z, alpha_bar = inversion_step(z, eps_hat, alpha_bar, alpha_bar_next), alpha_bar_next
        return z.float().cpu()

    def start(self, prepared: dict[str, Tensor], ipc: int, generator: torch.Generator) -> Tensor:
        """The one of ``sets`` sets of ``ipc`` points from the diagonal Gaussian whose moments are nearest to it."""
        import torch

        mean, std = prepared["mean"], prepared["std"]
        best, lowest = None, float("inf")
        chunk = max(1, CHUNK_VALUES // (ipc * mean.numel()))
        for first in range(0, self.sets, chunk):
            drawn = torch.randn(min(chunk, self.sets - first), ipc, *mean.shape, generator=generator) * std + mean
            scores = moment_scores(drawn.flatten(2), mean.flatten(), std.flatten(), skewness=self.skewness)
            if scores.min() < lowest:
                lowest, best = float(scores.min()), drawn[scores.argmin()].clone()
        if best is None:
            raise NumericsError("guide statistics: moments of inverted latents are not finite; a broken generator")
        return best

    def network_calls(self, images: int) -> int:
        """Every latent walks up to the level; guided calls count two."""
        return images * self._inverted_steps() * (1 if self.guidance == 1 else 2)

    def _inverted_steps(self) -> int:
        from ims3core.diffusion.sampling import grid_index

        return grid_index(self.level, steps=self.steps) + 1


def moment_scores(sets: Tensor, mean: Tensor, std: Tensor, *, skewness: str = "per_dimension") -> Tensor:
    """How far the moments of every set are from ``mean`` and ``std``, (sets,): lower is better (D3HR).

    Euclidean norms over the dimensions of the differences of means and of standard deviations, and 0.1 times that of
    the skewness.

    Args:
        sets: (sets, points, dim).
        mean, std: (dim,).
        skewness: ``per_dimension`` over the points; ``official`` takes it over the dimensions of each point, as the
            public code does by a mixed-up axis.
    """
    score: Tensor = (sets.mean(1) - mean).norm(dim=1) + (sets.std(1, correction=0) - std).norm(dim=1)
    if sets.shape[1] < 2:
        return score
    axis = 1 if skewness == "per_dimension" else 2
    centred = sets - sets.mean(axis, keepdim=True)
    third = centred.pow(3).mean(axis) / centred.square().mean(axis).clamp_min(1e-12).pow(1.5)
    score += SKEWNESS_WEIGHT * third.norm(dim=1)
    return score
