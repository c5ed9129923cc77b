"""Sampling steered towards modes of the real latents, until late in the trajectory (MGD3, arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ims3core.params import schema
from ims3core.samplers import Steps
from ims3core.samplers import network_calls as calls  # noqa: F401

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams, Prediction
    from ims3core.diffusion.schedule import Schedule

TAKES = ("targets",)


class Section(Steps):
    form: Literal["ddpm", "ddim"]
    scale: schema.NonNegative
    free_share: schema.Fraction


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: Tensor,
    *, steps: int, guidance: float, guided_channels: int, form: str, scale: float, free_share: float,
) -> Tensor:  # fmt: skip
    """Steered to the modes ``given`` while the respaced index is at least ``free_share`` of the ``steps``.

    Differs: the published t_stop is 25 of 50 steps; here it is a share, so that fewer steps keep its meaning.
    """
    from ims3core.diffusion.sampling import denoise
    from ims3core.diffusion.schedule import respace

    modes, stop = given.to(denoiser.device), free_share * steps
    step = {"ddpm": steered_ddpm_step, "ddim": steered_ddim_step}[form]

    def steered(
        schedule: Schedule, z_t: Tensor, found: Prediction, t: Tensor, noise: Callable[[], Tensor]
    ) -> Tensor:  # fmt: skip
        return step(schedule, z_t, found, t, noise, modes, scale if t[0] >= stop else 0.0)

    return denoise(
        denoiser, label, streams, step=steered, schedule=respace(denoiser.schedule, steps), guidance=guidance,
        guided_channels=guided_channels,
    )  # fmt: skip


def steered_ddpm_step(
    schedule: Schedule,
    z_t: Tensor,
    found: Prediction,
    t: Tensor,
    noise: Callable[[], Tensor],
    modes: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """The ancestral step, moved by scale * sigma_t * (mode - z0_hat); z0_hat is that of the unguided prediction."""
    from ims3core.diffusion.sampling import ddpm_step
    from ims3core.diffusion.schedule import model_log_variance, predict_z0

    plain = ddpm_step(schedule, z_t, found, t, noise)
    if scale == 0:
        return plain
    sigma = (0.5 * model_log_variance(schedule, found.v, t)).exp()
    return plain + scale * sigma * (modes - predict_z0(schedule, z_t, found.eps_label, t))


def steered_ddim_step(
    schedule: Schedule,
    z_t: Tensor,
    found: Prediction,
    t: Tensor,
    noise: Callable[[], Tensor],
    modes: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """The deterministic step on eps_hat - sqrt(1 - alpha_bar_t) * scale * (mode - z0_hat)."""
    from ims3core.diffusion.sampling import ddim_step
    from ims3core.diffusion.schedule import at, predict_z0

    away = modes - predict_z0(schedule, z_t, found.eps_label, t)
    moved = found.eps - at((1 - schedule.alpha_bar).sqrt(), t, z_t) * scale * away
    return ddim_step(schedule, z_t, found._replace(eps=moved), t, noise)
