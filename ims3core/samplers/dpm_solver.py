"""A second-order solver of the diffusion ODE, guided only in a range of noise levels.

DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095) and the guidance interval of Kynkäänniemi et al. 2024
(arXiv 2404.07724).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from ims3core.params import schema
from ims3core.samplers import Steps
from ims3core.shell.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser, NoiseStreams, Prediction
    from ims3core.diffusion.schedule import Schedule

TAKES = ("nothing",)


class Section(Steps):
    spacing: Literal["time", "log_snr"]
    interval: Annotated[list[schema.Fraction], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _interval_is_one(self) -> Section:
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval: found {self.interval}, wanted [low, high] with low below high")
        return self


def calls(*, steps: int, guidance: float, guided_channels: int, spacing: str, interval: list[float]) -> int:
    """Guided steps count two."""
    from ims3core.diffusion.schedule import linear_schedule

    trained = linear_schedule()
    kept = spaced(trained, steps, spacing=spacing).timesteps.tolist()
    return sum(2 if guidance_at(t, trained, guidance, interval) != 1 else 1 for t in kept)


def sample(
    denoiser: Denoiser, label: Tensor, streams: NoiseStreams, given: None,
    *, steps: int, guidance: float, guided_channels: int, spacing: str, interval: list[float],
) -> Tensor:  # fmt: skip
    """From noise along ``steps`` timesteps; only the start is random.

    Args:
        spacing: timesteps even in time, or in the logarithm of the signal-to-noise ratio.
        interval: shares of the trained process, 0 clean and 1 noise, between which guidance acts; outside it a step
            is one network call.

    Raises:
        ParameterError: so many steps of equal log SNR do not fall on different timesteps.
    """
    from ims3core.diffusion.sampling import denoise

    return denoise(
        denoiser, label, streams, step=Multistep(), schedule=spaced(denoiser.schedule, steps, spacing=spacing),
        guidance=lambda t: guidance_at(t, denoiser.schedule, guidance, interval), guided_channels=guided_channels,
    )  # fmt: skip


def guidance_at(t: int, trained: Schedule, guidance: float, interval: list[float]) -> float:
    """The guidance scale at a timestep of the trained process: 1, none, outside the interval."""
    low, high = interval
    return guidance if low <= t / (len(trained) - 1) <= high else 1.0


def spaced(trained: Schedule, steps: int, *, spacing: str) -> Schedule:
    """The ``steps`` timesteps that the solver asks at: the noisiest first; the clean end would be one more.

    Raises:
        ParameterError: steps of equal log SNR meet a timestep twice.
    """
    import torch

    from ims3core.diffusion.schedule import Schedule

    last = len(trained) - 1
    if spacing == "time":
        kept = torch.tensor([round(last * k / steps) for k in range(1, steps + 1)])
    else:
        levels = log_snr(trained.alpha_bar)
        wanted = torch.linspace(float(levels[0]), float(levels[last]), steps + 1, dtype=torch.float64)[1:]
        kept = (levels[None] - wanted[:, None]).abs().argmin(1)
    if (found := len(kept.unique())) < steps:
        raise ParameterError(
            f"dpm_solver.steps: found {steps}, but so many steps of equal {spacing} fall on {found} of "
            f"{len(trained)} timesteps; fewer steps" + (", or spacing: time" if spacing == "log_snr" else "")
        )
    return Schedule(trained.alpha_bar[kept], trained.timesteps[kept])


def log_snr(alpha_bar: Tensor) -> Tensor:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar))."""
    return 0.5 * (alpha_bar / (1 - alpha_bar)).log()


class Multistep:
    """One step of DPM-Solver++(2M) after another: the clean latent is extrapolated from the last two predictions."""

    def __init__(self) -> None:
        self.before: tuple[Tensor, Tensor] | None = None  # prediction and lambda one step earlier

    def __call__(
        self, schedule: Schedule, z_t: Tensor, found: Prediction, t: Tensor, noise: Callable[[], Any]
    ) -> Tensor:  # fmt: skip
        """z at the next cleaner timestep; the first step is of first order, and the last is the prediction itself."""
        from ims3core.diffusion.schedule import predict_z0

        z0, index = predict_z0(schedule, z_t, found.eps, t), int(t[0])
        if index == 0:
            return z0
        levels = log_snr(schedule.alpha_bar[index - 1 : index + 1])
        step = levels[0] - levels[1]
        extrapolated = z0
        if self.before is not None:
            ratio = (levels[1] - self.before[1]) / step
            extrapolated = z0 + (z0 - self.before[0]) / float(2 * ratio)
        self.before = z0, levels[1]
        (next_bar, here_bar) = schedule.alpha_bar[index - 1], schedule.alpha_bar[index]
        shrink = ((1 - next_bar) / (1 - here_bar)).sqrt()
        return float(shrink) * z_t - float(next_bar.sqrt() * (-step).expm1()) * extrapolated
