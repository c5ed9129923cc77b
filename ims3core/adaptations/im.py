"""Inversion-Matching: the inverted latent is pulled to the noised one (paper Eq. 1-7, Alg. 1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from ims3core.params import schema

if TYPE_CHECKING:
    import torch

    from ims3core.diffusion.batches import Batch
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule
    from ims3core.diffusion.training import Objective


class Section(schema.Section):
    form: Literal["paper", "official"]
    lambda_im: schema.NonNegative
    similarity: Literal["cosine", "l1", "l2"]
    inversion_steps: schema.Count
    pairing: Literal["matched", "all"]
    grad_through: Literal["inversion", "last_step", "denoiser"]
    clip_x0: bool

    @model_validator(mode="after")
    def _gradient_exists(self) -> Section:
        allowed = {"paper": ("inversion", "last_step"), "official": ("denoiser",)}[self.form]
        if self.grad_through not in allowed:
            raise ValueError(
                f"grad_through {self.grad_through!r} gives form {self.form!r} no gradient; "
                f"allowed there: {', '.join(allowed)}"
            )
        return self


def objective(*, variational: bool, **section: Any) -> Objective:
    """``L_diff`` and ``lambda_im * L_IM`` (Eq. 7)."""
    return partial(inversion_matching_terms, variational=variational, **section)


def passes(*, form: str, inversion_steps: int, grad_through: str, **section: Any) -> float:
    """The plain step, and the inversion: forward, and back where the gradient goes through."""
    inner = inversion_steps if form == "paper" else 1
    return 2.0 + {"inversion": 2.0 * inner, "last_step": inner + 1.0, "denoiser": 1.0}[grad_through]


def inversion_matching_terms(
    network: DiT,
    schedule: Schedule,
    batch: Batch,
    *,
    variational: bool,
    lambda_im: float,
    form: str,
    similarity: str,
    inversion_steps: int,
    pairing: str,
    grad_through: str,
    clip_x0: bool,
) -> dict[str, torch.Tensor]:
    """``L_diff`` and ``lambda_im * L_IM`` (Eq. 7), the paper's form or the public code's.

    ``paper``: z_inv at t against z_t of the same image; gradients flow through the inversion, z_t has none.
    ``official``: the posterior mean at t - 1 (with gradient) against one step of :func:`official_inversion`
    (without), label dropout on both sides; D1-D5 of the README. The leading constant of its matching
    term is dropped.
    """
    from ims3core.diffusion.inversion import invert, official_inversion
    from ims3core.diffusion.losses import denoise, matching_loss
    from ims3core.diffusion.schedule import posterior_mean, predict_z0

    z_t, eps_hat, terms = denoise(network, schedule, batch, variational)
    if lambda_im == 0:
        return terms
    if form == "paper":
        inverted = invert(
            network, schedule, batch.z0, batch.t, batch.label,
            steps=inversion_steps, through_all_steps=grad_through == "inversion",
        )  # fmt: skip
        other = z_t
    else:
        inverted = official_inversion(
            network, schedule, batch.z0, batch.t, batch.dropped_label_inversion, clip_x0=clip_x0
        )
        other = posterior_mean(schedule, predict_z0(schedule, z_t, eps_hat, batch.t), z_t, batch.t)
    terms["im"] = lambda_im * matching_loss(inverted, other, similarity=similarity, pairing=pairing)
    return terms
