"""Moments of a class's inverted latents, and the best of many sets drawn from them (D3HR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ims3core.params import schema

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser

GIVES = "starts"
PER_IPC = True
NETWORK = True
SKEWNESS_WEIGHT = 0.1
CHUNK_VALUES = 2**24  # drawn values that are scored at once
BATCH = 256  # latents inverted at once


class Section(schema.Section):
    steps: schema.Count
    level: schema.OpenFraction
    guidance: schema.Positive
    guided_channels: schema.Index
    sets: schema.Count
    skewness: Literal["per_dimension", "official"]


def prepare(
    latents: Tensor, denoiser: Denoiser, label: int,
    *, steps: int, level: float, guidance: float, guided_channels: int, sets: int, skewness: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Mean and standard deviation per dimension, (channels, side, side), of the latents inverted to ``level``."""
    import torch

    keys = {"steps": steps, "level": level, "guidance": guidance, "guided_channels": guided_channels}
    with torch.inference_mode():
        inverted = torch.cat([invert_guided(denoiser, part, label, **keys) for part in latents.split(BATCH)]).double()
    return {"mean": inverted.mean(0).float(), "std": inverted.std(0, correction=0).float()}


def invert_guided(
    denoiser: Denoiser, z0: Tensor, label: int, *, steps: int, level: float, guidance: float, guided_channels: int
) -> Tensor:
    """The latents (B, ...) walked up the respaced grid by Euler steps of the guided prediction (Eq. 3), float32 CPU."""
    import torch

    from ims3core.diffusion.inversion import inversion_step
    from ims3core.diffusion.sampling import grid_index
    from ims3core.diffusion.schedule import respace

    schedule = respace(denoiser.schedule, steps)
    z = z0.to(denoiser.device)
    labels = torch.full((len(z),), label, device=denoiser.device)
    alpha_bar = torch.ones(1, 1, 1, 1, device=z.device)
    for index in range(grid_index(level, steps=steps) + 1):
        # The network sees the level it stands at; clean latents count as the first.
        t = schedule.timesteps[max(0, index - 1)].to(z.device).expand(len(z))
        found = denoiser(z, t, labels, guidance=guidance, guided_channels=guided_channels)
        following = schedule.alpha_bar[index].to(z).view(1, 1, 1, 1)
        z, alpha_bar = inversion_step(z, found.eps, alpha_bar, following), following
    return z.float().cpu()


def start(
    prepared: dict[str, Tensor], ipc: int, generator: torch.Generator,
    *, steps: int, level: float, guidance: float, guided_channels: int, sets: int, skewness: str,
) -> Tensor:  # fmt: skip
    """The one of ``sets`` sets of ``ipc`` points from the diagonal Gaussian whose moments are nearest to it."""
    import torch

    mean, std = prepared["mean"], prepared["std"]
    best, lowest = None, float("inf")
    chunk = max(1, CHUNK_VALUES // (ipc * mean.numel()))
    for first in range(0, sets, chunk):
        drawn = torch.randn(min(chunk, sets - first), ipc, *mean.shape, generator=generator) * std + mean
        scores = moment_scores(drawn.flatten(2), mean.flatten(), std.flatten(), skewness=skewness)
        if scores.min() < lowest:
            lowest, best = float(scores.min()), drawn[scores.argmin()].clone()
    return best


def moment_scores(sets: Tensor, mean: Tensor, std: Tensor, *, skewness: str = "per_dimension") -> Tensor:
    """How far the moments of every set are from the wanted ones, (sets,): lower is better (D3HR).

    Euclidean norms over the dimensions of the differences of means and of standard deviations, and 0.1 times that of
    the skewness.

    Args:
        sets: (sets, points, dim).
        mean, std: (dim,).
        skewness: ``per_dimension`` over the points; ``official`` takes it over the dimensions of each point, as the
            public code does by a mixed-up axis.
    """
    found, spread = sets.mean(1), sets.std(1, correction=0)
    score = (found - mean).norm(dim=1) + (spread - std).norm(dim=1)
    if sets.shape[1] < 2:
        return score
    axis = 1 if skewness == "per_dimension" else 2
    centred = sets - sets.mean(axis, keepdim=True)
    third = centred.pow(3).mean(axis) / centred.square().mean(axis).clamp_min(1e-12).pow(1.5)
    return score + SKEWNESS_WEIGHT * third.norm(dim=1)


def calls(
    images: int, *, steps: int, level: float, guidance: float, guided_channels: int, sets: int, skewness: str
) -> int:  # fmt: skip
    """Every latent walks up to the level; guided calls count two."""
    from ims3core.diffusion.sampling import grid_index

    return images * (grid_index(level, steps=steps) + 1) * (1 if guidance == 1 else 2)
