"""DPM-Solver++(2M) against diffusers' scheduler and a closed form; guidance in an interval only."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from pydantic import ValidationError

from ims3core.axes.samplers.ddim import DDIM
from ims3core.axes.samplers.dpm_solver import DPMSolver
from ims3core.diffusion import sampling
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import ParameterError

SCHEDULE = linear_schedule()
KEYS = {"steps": 8, "guidance": 2.0, "guided_channels": 4, "spacing": "time", "interval": [0.0, 1.0]}


def draw(network, **changes):
    streams = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in (1, 2, 3)], (4, 4, 4))
    denoiser = sampling.Denoiser(network, SCHEDULE, 3, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        return DPMSolver(**KEYS | changes).sample(denoiser, torch.tensor([0, 1, 2]), streams, None)


def noise():
    return torch.stack([torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3)])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["time", "log_snr"])
def test_equal_to_the_scheduler_of_diffusers(tiny_dit, spacing):
    """The same timesteps, noise and guided predictions give the same latents."""
    ours = draw(tiny_dit, spacing=spacing)
    theirs = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", algorithm_type="dpmsolver++", solver_order=2,
        final_sigmas_type="zero", lower_order_final=True,
    )  # fmt: skip
    kept = DPMSolver(**KEYS | {"spacing": spacing}).spaced(SCHEDULE).timesteps
    theirs.set_timesteps(timesteps=kept.flip(0).tolist())
    z, label = noise(), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        for t in theirs.timesteps:
            eps = sampling.guided(
                tiny_dit, z, t.expand(3), label, null_label=3, guidance=2.0, guided_channels=4
            ).eps  # fmt: skip
            z = theirs.step(eps, t, z).prev_sample
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-4)


def test_it_ends_where_the_ode_ends():
    """For Gaussian data the exact flow is known; the solver's error falls faster than that of DDIM."""
    spread = 0.5

    def network(z, t, label):  # the exact noise of data N(0, spread^2)
        a = SCHEDULE.alpha_bar[t].float().view(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * z / (a * spread**2 + 1 - a)
        return torch.cat([eps, torch.zeros_like(z)], 1)

    last = float(SCHEDULE.alpha_bar[-1])
    exact = noise() * spread / (last * spread**2 + 1 - last) ** 0.5

    def error(sampler):
        streams = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in (1, 2, 3)], (4, 4, 4))
        denoiser = sampling.Denoiser(network, SCHEDULE, 3, torch.device("cpu"), torch.float32)
        drawn = sampler.sample(denoiser, torch.tensor([0, 1, 2]), streams, None)
        return float((drawn - exact).abs().max())

    plain = {"guidance": 1.0, "guided_channels": 4}
    even, levels = (plain | {"spacing": spacing, "interval": [0.0, 1.0]} for spacing in ("time", "log_snr"))
    assert error(DPMSolver(steps=10, **levels)) < 0.2 * error(DDIM(steps=10, **plain))
    assert error(DPMSolver(steps=40, **even)) < 0.25 * error(DPMSolver(steps=20, **even))  # of second order


def test_guidance_acts_in_its_interval_only(tiny_dit):
    """Outside it the network is asked once; a scale of 1 inside makes no difference to outside."""
    sizes = []

    def network(z, t, label):
        sizes.append((int(t[0]), len(z)))
        return tiny_dit(z, t, label)

    draw(network, interval=[0.2, 0.7])

    asked = {t: sum(n for when, n in sizes if when == t) for t, _ in sizes}
    assert {t: count for t, count in asked.items() if 200 <= t <= 699} == dict.fromkeys((250, 375, 500, 624), 6)
    assert {count for t, count in asked.items() if not 200 <= t <= 699} == {3}
    assert DPMSolver(**KEYS | {"interval": [0.2, 0.7]}).network_calls() == 8 + 4 == sum(asked.values()) // 3


def test_the_whole_interval_is_plain_guidance(tiny_dit):
    """[0, 1] guides every step; without a scale no interval matters."""
    assert DPMSolver(**KEYS).network_calls() == 16
    assert DPMSolver(**KEYS | {"guidance": 1.0}).network_calls() == 8
    assert torch.equal(draw(tiny_dit, guidance=1.0, interval=[0.2, 0.7]), draw(tiny_dit, guidance=1.0))
    assert not torch.equal(draw(tiny_dit, interval=[0.2, 0.7]), draw(tiny_dit))


@pytest.mark.parametrize(
    ("interval", "message"),
    [([0.2, 1.1], "less than or equal to 1"), ([0.7, 0.2], "low below high"), ([0.5], "at least 2")],
)
def test_an_interval_that_is_none_is_refused(interval, message):
    """Two shares of the process, the lower one first."""
    with pytest.raises(ValidationError, match=message):
        DPMSolver(**KEYS | {"interval": interval})


def test_more_steps_than_there_are_timesteps_are_refused():
    """Equal steps of log SNR meet the same timestep twice."""
    with pytest.raises(ParameterError, match=r"dpm_solver.steps: found 900, but .* fall on \d+ of 1000 timesteps"):
        DPMSolver(**KEYS | {"steps": 900, "spacing": "log_snr"}).spaced(SCHEDULE)
