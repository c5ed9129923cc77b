"""A second-order solver of the diffusion ODE, guided only in a range of noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ims3core.axes.samplers import RespacedSampler
from ims3core.base.schema import Interval
from ims3core.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams, Prediction
    from ims3core.diffusion.schedule import Schedule


class DPMSolver(RespacedSampler):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095); only the start is random.

    With the guidance interval of Kynkäänniemi et al. 2024 (arXiv 2404.07724).
    """

    spacing: Literal["time", "log_snr"] = Field(description="what the timesteps are even in")
    interval: Interval = Field(
        description="noise levels that are guided, shares of the process, 0 clean; outside a step costs one call"
    )

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> Self:
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval: found {self.interval}, wanted [low, high] with low below high")
        return self

    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        """Clean latents (B, channels, side, side).

        Raises:
            ParameterError: so many steps of equal log SNR do not fall on different timesteps.
        """
        from ims3core.diffusion.sampling import denoise

        trained = denoiser.schedule
        return denoise(
            denoiser, labels, noise, step=MultistepUpdate(), schedule=self.spaced(trained),
            guidance=lambda t: self.guidance_at(t, trained), guided_channels=self.guided_channels,
        )  # fmt: skip

    def network_calls(self) -> int:
        """Guided steps count two."""
        from ims3core.diffusion.schedule import linear_schedule

        trained = linear_schedule()
        timesteps = self.spaced(trained).timesteps.tolist()
        return sum(2 if self.guidance_at(t, trained) != 1 else 1 for t in timesteps)

    def guidance_at(self, t: int, trained: Schedule) -> float:
        """The guidance scale at a timestep of the trained process: 1, none, outside the interval."""
        low, high = self.interval
        return self.guidance if low <= t / (len(trained) - 1) <= high else 1.0

    def spaced(self, trained: Schedule) -> Schedule:
        """The ``steps`` timesteps that the solver asks at: the noisiest first; the clean end would be one more.

        Raises:
            ParameterError: steps of equal log SNR meet a timestep twice.
        """
        import torch

        from ims3core.diffusion.schedule import Schedule

        last, steps = len(trained) - 1, self.steps
        if self.spacing == "time":
            kept = torch.tensor([round(last * k / steps) for k in range(1, steps + 1)])
        else:
            levels = log_snr(trained.alpha_bar)
            even = torch.linspace(float(levels[0]), float(levels[last]), steps + 1, dtype=torch.float64)[1:]
            kept = (levels[None] - even[:, None]).abs().argmin(1)
        if (distinct := len(kept.unique())) < steps:
            raise ParameterError(
                f"dpm_solver.steps: found {steps}, but so many steps of equal {self.spacing} fall on {distinct} of "
                f"{len(trained)} timesteps; fewer steps" + (", or spacing: time" if self.spacing == "log_snr" else "")
            )
        return Schedule(trained.alpha_bar[kept], trained.timesteps[kept])


def log_snr(alpha_bar: Tensor) -> Tensor:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar))."""
    return 0.5 * (alpha_bar / (1 - alpha_bar)).log()


class MultistepUpdate:
    """One step of DPM-Solver++(2M) after another: the clean latent is extrapolated from the last two predictions."""

    def __init__(self) -> None:
        self.previous: tuple[Tensor, Tensor] | None = None  # prediction and lambda one step earlier

    def __call__(
        self, schedule: Schedule, z_t: Tensor, prediction: Prediction, t: Tensor, noise: Callable[[], Tensor]
    ) -> Tensor:
        """z at the next cleaner timestep; the first step is of first order, and the last is the prediction itself."""
        from ims3core.diffusion.schedule import predict_z0

        z0, index = predict_z0(schedule, z_t, prediction.eps, t), int(t[0])
        if index == 0:
            return z0
        levels = log_snr(schedule.alpha_bar[index - 1 : index + 1])
        step = levels[0] - levels[1]
        extrapolated = z0
        if self.previous is not None:
            ratio = (levels[1] - self.previous[1]) / step
            extrapolated = z0 + (z0 - self.previous[0]) / float(2 * ratio)
        self.previous = z0, levels[1]
        next_bar, bar = schedule.alpha_bar[index - 1], schedule.alpha_bar[index]
        shrink = ((1 - next_bar) / (1 - bar)).sqrt()
        return float(shrink) * z_t - float(next_bar.sqrt() * (-step).expm1()) * extrapolated
