"""Sampling steered towards modes of the real latents, until late in the trajectory (MGD3, arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.samplers import RespacedSampler
from ims3core.base.schema import Fraction, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams, Prediction
    from ims3core.diffusion.schedule import Schedule


class ModeGuided(RespacedSampler):
    """Steered while the respaced index is at least ``free_share`` of the ``steps``.

    Differs: the published t_stop is 25 of 50 steps; here it is a share, so that fewer steps keep its meaning.
    """

    accepts = ("targets",)

    form: Literal["ddpm", "ddim"] = Field(description="which step is steered")
    scale: NonNegative = Field(description="lambda: pull towards the mode, in units of sigma (MGD3: 0.1)")
    free_share: Fraction = Field(description="share of the last steps without guidance (MGD3: t_stop 25 of 50)")

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        assert guide_latents is not None, "a guide of 'targets' gives the modes"
        modes, stop = guide_latents.to(denoiser.device), self.free_share * self.steps
        step = {"ddpm": steered_ddpm_step, "ddim": steered_ddim_step}[self.form]

        def steered(
            schedule: Schedule, z_t: Tensor, prediction: Prediction, t: Tensor, fresh: Callable[[], Tensor]
        ) -> Tensor:
            return step(schedule, z_t, prediction, t, fresh, modes, self.scale if t[0] >= stop else 0.0)

        return self._denoise(denoiser, labels, noise, steered)


def steered_ddpm_step(
    schedule: Schedule, z_t: Tensor, prediction: Prediction, t: Tensor, noise: Callable[[], Tensor], modes: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """The ancestral step, moved by scale * sigma_t * (mode - z0_hat); z0_hat is that of the unguided prediction."""
    from ims3core.diffusion.sampling import ddpm_step
    from ims3core.diffusion.schedule import model_log_variance, predict_z0

    plain = ddpm_step(schedule, z_t, prediction, t, noise)
    if scale == 0:
        return plain
    sigma = (0.5 * model_log_variance(schedule, prediction.v, t)).exp()
    return plain + scale * sigma * (modes - predict_z0(schedule, z_t, prediction.eps_label, t))


def steered_ddim_step(
    schedule: Schedule, z_t: Tensor, prediction: Prediction, t: Tensor, noise: Callable[[], Tensor], modes: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """The deterministic step on eps_hat - sqrt(1 - alpha_bar_t) * scale * (mode - z0_hat)."""
    from ims3core.diffusion.sampling import ddim_step
    from ims3core.diffusion.schedule import at, predict_z0

    away = modes - predict_z0(schedule, z_t, prediction.eps_label, t)
    moved = prediction.eps - at((1 - schedule.alpha_bar).sqrt(), t, z_t) * scale * away
    return ddim_step(schedule, z_t, prediction._replace(eps=moved), t, noise)
