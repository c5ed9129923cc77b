"""Respaced ancestral sampling with learned variance, as DiT samples (DDPM; improved DDPM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ims3core.samplers import Steps as Section  # noqa: F401
from ims3core.samplers import network_calls as calls  # noqa: F401

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams
    from ims3core.diffusion.schedule import Schedule

TAKES = ("nothing",)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: None,
    *, steps: int, guidance: float, guided_channels: int,
) -> Tensor:  # fmt: skip
    """From noise, ``steps`` timesteps of the trained process, fresh noise after each but the last."""
    from ims3core.diffusion.sampling import denoise

    return denoise(
        denoiser, label, streams, step=ddpm_step, steps=steps, guidance=guidance, guided_channels=guided_channels
    )


def ddpm_step(
    schedule: Schedule, z_t: Tensor, eps_hat: Tensor, v: Tensor, t: Tensor, noise: Callable[[], Tensor]
) -> Tensor:
    """One ancestral step with learned variance; no noise at the last step, x0 not clipped."""
    from ims3core.diffusion.schedule import model_log_variance, posterior_mean, predict_z0

    mean = posterior_mean(schedule, predict_z0(schedule, z_t, eps_hat, t), z_t, t)
    if t[0] == 0:  # a batch is at one timestep
        return mean
    return mean + (0.5 * model_log_variance(schedule, v, t)).exp() * noise()
