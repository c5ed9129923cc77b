"""Inversion-Matching: the inverted latent is pulled to the noised one (paper Eq. 1-7, Alg. 1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

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
    share: Annotated[float, Field(gt=0, le=1)]
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


def passes(*, form: str, inversion_steps: int, grad_through: str, share: float, **section: Any) -> float:
    """The plain step, and the inversion of a share of it: forward, and back where the gradient goes through."""
    inner = inversion_steps if form == "paper" else 1
    return 2.0 + share * {"inversion": 2.0 * inner, "last_step": inner + 1.0, "denoiser": 1.0}[grad_through]


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
    share: float,
    clip_x0: bool,
) -> dict[str, torch.Tensor]:
    """``L_diff`` and ``lambda_im * L_IM`` (Eq. 7), the paper's form or the public code's.

    ``paper``: z_inv at t against z_t of the same image; gradients flow through the inversion, z_t has none.
    ``official``: the posterior mean at t - 1 (with gradient) against one step of :func:`official_inversion`
    (without), label dropout on both sides; D1-D5 of the README. The leading constant of its matching
    term is dropped.

    The matching term is the mean over a ``share`` of the batch, spread evenly: rows of a batch are in random order,
    so its expectation is that of the whole. The last call of the inversion shares the network call of ``L_diff``.
    """
    import torch

    from ims3core.diffusion.inversion import inversion_step, official_inversion, walk
    from ims3core.diffusion.losses import denoising_terms, matching_loss, terms_of
    from ims3core.diffusion.schedule import add_noise, at, posterior_mean, predict_z0

    if lambda_im == 0:
        return denoising_terms(network, schedule, batch, variational=variational)
    rows = spread(len(batch.t), share)
    z_t, channels = add_noise(schedule, batch.z0, batch.eps, batch.t), batch.z0.shape[1]
    z0, t, label, noised = (values[rows] for values in (batch.z0, batch.t, batch.label, z_t))
    if form == "paper":
        z, tau, alpha_bar = walk(
            network, schedule, z0, t, label, steps=inversion_steps, through_all_steps=grad_through == "inversion"
        )
        calls = zip((z_t, batch.t, batch.dropped_label), (z, tau, label), strict=True)
        found, last = network(*map(torch.cat, calls)).float().split([len(z_t), len(z)])
        inverted = inversion_step(z, last[:, :channels], alpha_bar, at(schedule.alpha_bar, t, z))
        other = noised
    else:
        found = network(z_t, batch.t, batch.dropped_label).float()
        inverted = official_inversion(
            network, schedule, z0, t, batch.dropped_label_inversion[rows], clip_x0=clip_x0
        )  # fmt: skip
        other = posterior_mean(schedule, predict_z0(schedule, noised, found[rows, :channels], t), noised, t)
    terms = terms_of(schedule, batch, z_t, found, variational=variational)
    terms["im"] = lambda_im * matching_loss(inverted, other, similarity=similarity, pairing=pairing)
    return terms


def spread(count: int, share: float) -> list[int]:
    """Which rows are in a ``share`` of ``count`` rows: evenly spread, at least one."""
    return [n for n in range(count) if int((n + 1) * share) > int(n * share)] or [0]
