"""Inversion-Matching: the inverted latent is pulled to the noised one (paper Eq. 1-7, Alg. 1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from ims3core.axes.adaptations import Adaptation
from ims3core.base.schema import Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.batches import Batch
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule
    from ims3core.diffusion.training import Objective


class InversionMatching(Adaptation):
    """``L_diff + lambda_im * L_IM`` (Eq. 7), in the paper's form or the public code's.

    ``paper``: z_inv at t against z_t of the same image; gradients flow through the inversion, z_t has none.
    ``official``: the posterior mean at t - 1 (with gradient) against one step of
    :func:`~ims3core.diffusion.inversion.official_inversion` (without), label dropout on both sides; D1-D5 of
    docs/deviations.md. The leading constant of its matching term is dropped.

    The matching term is the mean over a ``share`` of the batch, spread evenly: rows of a batch are in random order,
    so its expectation is that of the whole.
    """

    form: Literal["paper", "official"] = Field(
        description="paper: z_inv at t against z_t (Eq. 5) | official: what the public code computes"
    )
    lambda_im: NonNegative = Field(description="lambda_IM (Eq. 7)")
    similarity: Literal["cosine", "l1", "l2"] = Field(description="of the matched latents (Table 7; paper: cosine)")
    inversion_steps: Count = Field(description="Euler steps of Eq. 3 from clean to t; the paper leaves the number open")
    pairing: Literal["matched", "all"] = Field(
        description="matched: image i with image i | all: the public code's B x B pairs (D4)"
    )
    grad_through: Literal["inversion", "last_step", "denoiser"] = Field(
        description="paper: inversion | last_step (n times cheaper); official: denoiser (D3)"
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="of each batch that the matching term looks at, in expectation the same (ours; paper: 1)"
    )
    clip_x0: bool = Field(description="official only: clip the predicted clean latent to [-1, 1] (D5)")

    @model_validator(mode="after")
    def _gradient_exists(self) -> Self:
        allowed = {"paper": ("inversion", "last_step"), "official": ("denoiser",)}[self.form]
        if self.grad_through not in allowed:
            raise ValueError(
                f"grad_through {self.grad_through!r} gives form {self.form!r} no gradient; "
                f"allowed there: {', '.join(allowed)}"
            )
        return self

    def objective(self, *, variational: bool) -> Objective:
        return partial(self.terms, variational=variational)

    def passes(self) -> float:
        """The plain step, and the inversion of a share of it: forward, and back where the gradient goes through."""
        inner = self.inversion_steps if self.form == "paper" else 1
        extra = {"inversion": 2.0 * inner, "last_step": inner + 1.0, "denoiser": 1.0}[self.grad_through]
        return 2.0 + self.share * extra

    def terms(self, network: DiT, schedule: Schedule, batch: Batch, *, variational: bool) -> dict[str, Tensor]:
        """``L_diff`` and ``lambda_im * L_IM`` (Eq. 7), the paper's form or the public code's."""
        from ims3core.diffusion.losses import denoising_terms, matching_loss, terms_of
        from ims3core.diffusion.schedule import add_noise

        if self.lambda_im == 0:
            return denoising_terms(network, schedule, batch, variational=variational)
        rows = spread(len(batch.t), self.share)
        z_t = add_noise(schedule, batch.z0, batch.eps, batch.t)
        match = self._paper if self.form == "paper" else self._official
        output, inverted, target = match(network, schedule, batch, z_t, rows)
        terms = terms_of(schedule, batch, z_t, output, variational=variational)
        matching = matching_loss(inverted, target, similarity=self.similarity, pairing=self.pairing)
        terms["im"] = self.lambda_im * matching
        return terms

    def _paper(
        self, network: DiT, schedule: Schedule, batch: Batch, z_t: Tensor, rows: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The network's output for ``z_t``, and of the ``rows`` z_inv at t and z_t.

        The last call of the inversion shares the network call of ``L_diff``.
        """
        import torch

        from ims3core.diffusion.inversion import inversion_step, walk
        from ims3core.diffusion.schedule import at

        z0, t, label = (values[rows] for values in (batch.z0, batch.t, batch.label))
        through_all = self.grad_through == "inversion"
        z, tau, alpha_bar = walk(
            network, schedule, z0, t, label, steps=self.inversion_steps, through_all_steps=through_all
        )
        calls = zip((z_t, batch.t, batch.dropped_label), (z, tau, label), strict=True)
        output, last = network(*map(torch.cat, calls)).float().split([len(z_t), len(z)])
        inverted = inversion_step(z, last[:, : z0.shape[1]], alpha_bar, at(schedule.alpha_bar, t, z))
        return output, inverted, z_t[rows]

    def _official(
        self, network: DiT, schedule: Schedule, batch: Batch, z_t: Tensor, rows: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The network's output for ``z_t``, and of the ``rows`` the official inversion and the posterior mean."""
        from ims3core.diffusion.inversion import official_inversion
        from ims3core.diffusion.schedule import posterior_mean, predict_z0

        z0, t, label, noised = (values[rows] for values in (batch.z0, batch.t, batch.dropped_label_inversion, z_t))
        output = network(z_t, batch.t, batch.dropped_label).float()
        inverted = official_inversion(network, schedule, z0, t, label, clip_x0=self.clip_x0)
        eps_hat = output[rows, : z0.shape[1]]
        return output, inverted, posterior_mean(schedule, predict_z0(schedule, noised, eps_hat, t), noised, t)


def spread(count: int, share: float) -> list[int]:
    """Which rows are in a ``share`` of ``count`` rows: evenly spread, at least one."""
    return [n for n in range(count) if int((n + 1) * share) > int(n * share)] or [0]
