"""The noise schedule against closed forms and diffusers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ims3core.diffusion.schedule import (
    add_noise,
    linear_schedule,
    model_log_variance,
    posterior_mean,
    predict_z0,
    respace,
)

SCHEDULE = linear_schedule()


def test_alpha_bar_is_the_running_product_of_a_linear_noise_beta():
    """A plain loop over 1000 steps gives the same alpha_bar."""
    product, expected = 1.0, []
    for k in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * k / 999)
        expected.append(product)

    torch.testing.assert_close(SCHEDULE.alpha_bar, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_fifty_steps_keep_the_timesteps_of_dit():
    """Respacing to 50 keeps 0, 20, 41, 61, ..., 979, 999."""
    kept = respace(SCHEDULE, 50).timesteps.tolist()

    assert kept[:4] == [0, 20, 41, 61]
    assert kept[-2:] == [979, 999]
    assert len(kept) == 50


@given(steps=st.integers(2, 1000))
def test_respacing_keeps_alpha_bar_at_the_kept_timesteps(steps):
    """The product of the recomputed 1 - noise_beta is the original alpha_bar, for any number of steps."""
    short = respace(SCHEDULE, steps)

    torch.testing.assert_close(torch.cumprod(1 - short.noise_beta, 0), SCHEDULE.alpha_bar[short.timesteps])
    assert short.timesteps.diff().min() >= 1


def test_one_step_keeps_the_last_timestep():
    """A single step starts from the noisiest timestep."""
    assert respace(SCHEDULE, 1).timesteps.tolist() == [999]


def test_the_predicted_clean_latent_undoes_the_noising():
    """With the true noise, Eq. 2 inverts Eq. 4 at every timestep."""
    z0, eps = torch.randn(1000, 1, 2, 2, dtype=torch.float64), torch.randn(1000, 1, 2, 2, dtype=torch.float64)
    t = torch.arange(1000)

    torch.testing.assert_close(predict_z0(SCHEDULE, add_noise(SCHEDULE, z0, eps, t), eps, t), z0)


def test_the_posterior_is_that_of_two_gaussians():
    """Mean and variance of q(z_{t-1} | z_t, z0) equal the product of the two Gaussians, worked out directly."""
    t = 400
    beta, previous = SCHEDULE.noise_beta[t], SCHEDULE.alpha_bar[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - previous)
    z0, z_t = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
    expected = (z_t * (1 - beta).sqrt() / beta + z0 * previous.sqrt() / (1 - previous)) / precision

    found = posterior_mean(SCHEDULE, z0.view(1, 1, 1, 1), z_t.view(1, 1, 1, 1), torch.tensor([t]))

    torch.testing.assert_close(found.squeeze(), expected)
    torch.testing.assert_close(SCHEDULE.posterior_variance[t], 1 / precision)


@pytest.mark.parametrize(("v", "bound"), [(-1.0, "posterior_log_variance"), (1.0, "noise_beta")])
def test_the_learned_variance_spans_posterior_to_beta(v, bound):
    """v = -1 gives the posterior variance, v = 1 gives beta (improved DDPM)."""
    t = torch.tensor([300])
    expected = (
        SCHEDULE.posterior_log_variance[300] if bound == "posterior_log_variance" else SCHEDULE.noise_beta[300].log()
    )

    found = model_log_variance(SCHEDULE, torch.full((1, 1, 1, 1), v, dtype=torch.float64), t)

    torch.testing.assert_close(found.squeeze(), expected)
