"""The noise schedule of DiT and its respaced versions, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Schedule:
    """A discrete diffusion process.

    Attributes:
        alpha_bar: float64 (steps,), cumulative product of ``1 - noise_beta``, decreasing.
        timesteps: int64 (steps,), the index of each step in the process the network was trained on.
    """

    alpha_bar: torch.Tensor
    timesteps: torch.Tensor

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @cached_property
    def alpha_bar_previous(self) -> torch.Tensor:
        """alpha_bar one step earlier; 1 before the first step."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])

    @cached_property
    def noise_beta(self) -> torch.Tensor:
        """Variance added by each step, recomputed from the kept ``alpha_bar``."""
        return 1 - self.alpha_bar / self.alpha_bar_previous

    @cached_property
    def posterior_variance(self) -> torch.Tensor:
        """Variance of q(z_{t-1} | z_t, z0)."""
        return self.noise_beta * (1 - self.alpha_bar_previous) / (1 - self.alpha_bar)

    @cached_property
    def posterior_log_variance(self) -> torch.Tensor:
        """Logarithm of :attr:`posterior_variance`, its zero at the first step replaced by the second entry."""
        variance = self.posterior_variance.clone()
        variance[0] = variance[1] if len(variance) > 1 else self.noise_beta[0]
        return variance.log()

    @cached_property
    def posterior_mean_z0(self) -> torch.Tensor:
        """Weight of z0 in the mean of q(z_{t-1} | z_t, z0)."""
        return self.noise_beta * self.alpha_bar_previous.sqrt() / (1 - self.alpha_bar)

    @cached_property
    def posterior_mean_zt(self) -> torch.Tensor:
        """Weight of z_t in the mean of q(z_{t-1} | z_t, z0)."""
        return (1 - self.alpha_bar_previous) * (1 - self.noise_beta).sqrt() / (1 - self.alpha_bar)


def linear_schedule(num_timesteps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """The training process of DiT: ``noise_beta`` linear from ``first`` to ``last``."""
    noise_beta = torch.linspace(first, last, num_timesteps, dtype=torch.float64)
    return Schedule(torch.cumprod(1 - noise_beta, 0), torch.arange(num_timesteps))


def respace(schedule: Schedule, steps: int) -> Schedule:
    """``schedule`` reduced to ``steps`` evenly spaced timesteps, first and last included.

    The kept timesteps are round(k (T - 1) / (steps - 1)); a single step keeps the last one.
    """
    last = len(schedule) - 1
    kept = [round(k * last / (steps - 1)) for k in range(steps)] if steps > 1 else [last]
    return Schedule(schedule.alpha_bar[kept], schedule.timesteps[kept])


def at(values: torch.Tensor, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``values[t]`` as (B, 1, 1, 1) in the dtype and on the device of ``like`` (B, C, H, W)."""
    return values.to(like.device)[t].to(like.dtype).view(-1, 1, 1, 1)


def add_noise(schedule: Schedule, z0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """z_t = sqrt(alpha_bar_t) z0 + sqrt(1 - alpha_bar_t) eps (Eq. 4)."""
    return at(schedule.alpha_bar.sqrt(), t, z0) * z0 + at((1 - schedule.alpha_bar).sqrt(), t, z0) * eps


def predict_z0(schedule: Schedule, z_t: torch.Tensor, eps_hat: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The predicted clean latent (Eq. 2); not clipped, latents have no fixed range."""
    return (z_t - at((1 - schedule.alpha_bar).sqrt(), t, z_t) * eps_hat) / at(schedule.alpha_bar.sqrt(), t, z_t)


def posterior_mean(schedule: Schedule, z0: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean of q(z_{t-1} | z_t, z0) of DDPM."""
    return at(schedule.posterior_mean_z0, t, z0) * z0 + at(schedule.posterior_mean_zt, t, z_t) * z_t


def model_log_variance(schedule: Schedule, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Learned log variance: interpolates between log beta and the posterior's with f = (v + 1) / 2 (DiT)."""
    fraction = (v + 1) / 2
    upper = at(schedule.noise_beta.log(), t, v)
    return fraction * upper + (1 - fraction) * at(schedule.posterior_log_variance, t, v)
