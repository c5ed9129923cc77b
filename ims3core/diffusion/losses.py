"""The loss terms of training and fine-tuning a generator (Eq. 5-7)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from ims3core.diffusion.batches import Batch
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.schedule import Schedule, add_noise, at, model_log_variance, posterior_mean, predict_z0
from ims3core.errors import ParameterError


def diffusion_loss(eps_hat: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Mean squared error between predicted and true noise (Eq. 6)."""
    return F.mse_loss(eps_hat, eps)


def variational_loss(
    schedule: Schedule, z0: torch.Tensor, z_t: torch.Tensor, eps_hat: torch.Tensor, v: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """The term that trains the variance channels (improved DDPM): bits per value, the predicted mean detached.

    KL between the true and the modelled posterior for t > 0, and the negative log-likelihood of z0 in
    bins of width 2/255 at t = 0. No 1/1000 factor, as in DiT.
    """
    true_mean = posterior_mean(schedule, z0, z_t, t)
    true_log_variance = at(schedule.posterior_log_variance, t, z_t)
    mean = posterior_mean(schedule, predict_z0(schedule, z_t, eps_hat.detach(), t), z_t, t)
    log_variance = model_log_variance(schedule, v, t)
    kl = 0.5 * (
        log_variance - true_log_variance - 1
        + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )  # fmt: skip
    likelihood = _binned_log_likelihood(z0, mean, 0.5 * log_variance)
    per_image = torch.where(t > 0, kl.flatten(1).mean(1), -likelihood.flatten(1).mean(1))
    return per_image.mean() / math.log(2)


def _binned_log_likelihood(x: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Log probability of ``x`` in bins of width 2/255 under a Gaussian, with open outer bins at +-0.999."""
    inverse_std = (-log_std).exp()
    upper = torch.special.ndtr((x - mean + 1 / 255) * inverse_std)
    lower = torch.special.ndtr((x - mean - 1 / 255) * inverse_std)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp_min(1e-12).log()


def cosine_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the flattened latents (Eq. 5), one value per pair."""
    return 1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)


def l1_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference per pair (Table 7, read as L1)."""
    return (a - b).abs().flatten(1).mean(1)


def l2_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared difference per pair (Table 7, read as L2)."""
    return (a - b).square().flatten(1).mean(1)


SIMILARITIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": cosine_distance,
    "l1": l1_distance,
    "l2": l2_distance,
}


def matching_loss(a: torch.Tensor, b: torch.Tensor, *, similarity: str, pairing: str) -> torch.Tensor:
    """Mean distance between latents ``a`` and ``b``, both (B, C, H, W) (Eq. 5).

    Args:
        similarity: ``cosine`` (the paper's), ``l1`` or ``l2``.
        pairing: ``matched`` compares image i with image i (the paper); ``all`` averages over the B x B
            pairs, most of them of different images (the public code, D4).
    """
    if similarity not in SIMILARITIES:
        raise ParameterError(f"im.similarity: found {similarity!r}; known: {', '.join(SIMILARITIES)}")
    if pairing == "all":
        batch = len(a)
        a, b = a.repeat_interleave(batch, 0), b.repeat(batch, 1, 1, 1)
    return SIMILARITIES[similarity](a, b).mean()


def terms_of(
    schedule: Schedule, batch: Batch, z_t: torch.Tensor, output: torch.Tensor, *, variational: bool
) -> dict[str, torch.Tensor]:
    """The loss terms of the network's ``output`` (B, 2 C, H, W) for the noised latents ``z_t`` (B, C, H, W)."""
    eps_hat, v = output.chunk(2, 1)
    terms = {"diffusion": diffusion_loss(eps_hat, batch.eps)}
    if variational:
        terms["variational"] = variational_loss(schedule, batch.z0, z_t, eps_hat, v, batch.t)
    return terms


def predict_noise(
    network: DiT, schedule: Schedule, batch: Batch, *, variational: bool
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The noised latents, the noise predicted in them, both (B, C, H, W), and the terms that all objectives share."""
    z_t = add_noise(schedule, batch.z0, batch.eps, batch.t)
    output = network(z_t, batch.t, batch.dropped_label).float()
    return z_t, output.chunk(2, 1)[0], terms_of(schedule, batch, z_t, output, variational=variational)


def denoising_terms(network: DiT, schedule: Schedule, batch: Batch, *, variational: bool) -> dict[str, torch.Tensor]:
    """``L_diff`` (Eq. 6), plus the variational term of the learned variance if ``variational`` (D7)."""
    return predict_noise(network, schedule, batch, variational=variational)[2]
