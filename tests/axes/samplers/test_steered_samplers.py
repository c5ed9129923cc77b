"""MGD3, D4M and D3HR as samplers: each against its formula, and the same as DDPM or DDIM where only one thing differs."""

import pytest
import torch

from ims3core.axes.samplers.ddim import DDIM
from ims3core.axes.samplers.ddpm import DDPM
from ims3core.axes.samplers.from_statistics import FromStatistics
from ims3core.axes.samplers.mode_guided import ModeGuided, steered_ddim_step, steered_ddpm_step
from ims3core.axes.samplers.prototype import Prototype
from ims3core.diffusion import sampling
from ims3core.diffusion.schedule import (
    add_noise,
    linear_schedule,
    model_log_variance,
    posterior_mean,
    predict_z0,
    respace,
)

SCHEDULE = linear_schedule()
STEPS = {"steps": 6, "guidance": 2.0, "guided_channels": 3}


def draw(sampler, network, guide_latents=None, seeds=(1, 2, 3), **section):
    streams = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in seeds], (4, 4, 4))
    denoiser = sampling.Denoiser(network, SCHEDULE, 3, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        labels = torch.tensor([0, 1, 2][: len(seeds)])
        return sampler(**STEPS | section).sample(denoiser, labels, streams, guide_latents)


def modes():
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("form", "sampler"), [("ddpm", DDPM), ("ddim", DDIM)])
def test_without_pull_mode_guidance_is_the_plain_sampler(tiny_dit, form, sampler):
    """Scale 0, or free from the first step: bit for bit the sampler it steers, from the same seeds."""
    plain = draw(sampler, tiny_dit)
    assert torch.equal(draw(ModeGuided, tiny_dit, modes(), form=form, scale=0.0, free_share=0.0), plain)
    assert torch.equal(draw(ModeGuided, tiny_dit, modes(), form=form, scale=0.1, free_share=1.0), plain)
    assert not torch.equal(draw(ModeGuided, tiny_dit, modes(), form=form, scale=0.1, free_share=0.5), plain)


def test_the_steered_ddpm_step_is_mgd3s_update(tiny_dit):
    """mu_t + lambda sigma_t (m - z0_hat) + sigma_t eps, z0_hat from the conditional prediction."""
    short = respace(SCHEDULE, 6)
    z, v, eps, plain_eps, noise = (
        torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(5)
    )
    t, prediction = torch.full((3,), 4), sampling.Prediction(eps, v.tanh(), plain_eps)
    got = steered_ddpm_step(short, z, prediction, t, lambda: noise, modes(), 0.1)

    mean = posterior_mean(short, predict_z0(short, z, eps, t), z, t)
    sigma = (0.5 * model_log_variance(short, v.tanh(), t)).exp()
    expected = mean + 0.1 * sigma * (modes() - predict_z0(short, z, plain_eps, t)) + sigma * noise
    torch.testing.assert_close(got, expected)


def test_the_steered_ddim_step_moves_the_predicted_noise():
    """eps - sqrt(1 - alpha_bar) lambda (m - z0_hat), then DDIM."""
    short = respace(SCHEDULE, 6)
    z, eps = (torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(2))
    t, prediction = torch.full((3,), 4), sampling.Prediction(eps, eps, eps)
    got = steered_ddim_step(short, z, prediction, t, None, modes(), 0.1)

    away = modes() - predict_z0(short, z, eps, t)
    moved = eps - (1 - short.alpha_bar[4]).sqrt().float() * 0.1 * away
    a, b = short.alpha_bar[4].float(), short.alpha_bar[3].float()
    expected = b.sqrt() * (z - (1 - a).sqrt() * moved) / a.sqrt() + (1 - b).sqrt() * moved
    torch.testing.assert_close(got, expected)


def test_guidance_pulls_towards_the_modes():
    """Images are nearer to their modes than without, and nearest with the strongest pull."""

    def standard_normal(z, t, label):  # the exact prediction for data N(0, 1)
        a = SCHEDULE.alpha_bar[t].float().view(-1, 1, 1, 1)
        return torch.cat([(1 - a).sqrt() * z, -torch.ones_like(z)], 1)

    apart = [
        (draw(ModeGuided, standard_normal, modes(), form="ddpm", scale=scale, free_share=0.0) - modes()).norm().item()
        for scale in (0.0, 0.3, 0.9)
    ]
    assert apart == sorted(apart, reverse=True)


def test_a_prototype_is_noised_and_denoised_from_there(tiny_dit):
    """Equal to the loop started by hand at 0.5 of 6 steps; a perfect denoiser gives the prototype back."""
    drawn = draw(Prototype, tiny_dit, modes(), strength=0.5)
    streams = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in (1, 2, 3)], (4, 4, 4))
    denoiser = sampling.Denoiser(tiny_dit, SCHEDULE, 3, torch.device("cpu"), torch.float32)
    start = add_noise(respace(SCHEDULE, 6), modes(), streams(), torch.full((3,), 2))
    with torch.inference_mode():
        keys = {name: value for name, value in STEPS.items() if name != "steps"}
        expected = sampling.denoise(
            denoiser, torch.tensor([0, 1, 2]), streams, step=sampling.ddpm_step, schedule=respace(SCHEDULE, 6), **keys,
            start=(start, 2),
        )  # fmt: skip
    assert torch.equal(drawn, expected)
    assert Prototype(**STEPS, strength=0.5).network_calls() == 3 * 2

    def oracle(z, t, label):  # knows the prototypes
        a = SCHEDULE.alpha_bar[t].float().view(-1, 1, 1, 1)
        target = modes()[label.clamp(max=2)]
        return torch.cat([(z - a.sqrt() * target) / (1 - a).sqrt(), -torch.ones_like(z)], 1)

    back = draw(Prototype, oracle, modes(), strength=0.7, guidance=1.0)
    torch.testing.assert_close(back, modes(), atol=0.05, rtol=0)


def test_starts_are_walked_down_by_ddim(tiny_dit):
    """From the given states, deterministic: the seeds change nothing."""
    one, two = (draw(FromStatistics, tiny_dit, modes(), seeds=seeds, level=0.5) for seeds in ((1, 2, 3), (7, 8, 9)))
    assert torch.equal(one, two)
    assert FromStatistics(**STEPS, level=0.5).network_calls() == 3 * 2


def test_grid_index_counts_the_steps_that_are_walked():
    """Half of 50 steps: 25 are walked, from index 24 down to 0."""
    assert [sampling.grid_index(share, steps=50) for share in (0.01, 0.5, 0.62, 0.999)] == [0, 24, 30, 49]
