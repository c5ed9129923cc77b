"""Eq. 3-7: inversion, matching losses and the denoising loss against slow oracles."""

import math

import pytest
import torch

from ims3core.diffusion import losses
from ims3core.diffusion.inversion import inversion_step, invert, official_inversion
from ims3core.diffusion.sampling import Prediction, ddim_step
from ims3core.diffusion.schedule import linear_schedule, respace
from ims3core.errors import ParameterError

SCHEDULE = linear_schedule()


def pair(seed=0, batch=3):
    stream = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 2, 2, 2, generator=stream, dtype=torch.float64) for _ in range(2))


def test_cosine_matching_by_hand():
    """Latents (3, 4) and (4, 3) have cosine 24/25, so the loss is 0.04."""
    a, b = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)

    found = losses.matching_loss(a, b, similarity="cosine", pairing="matched")

    assert found.item() == pytest.approx(0.04, abs=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2"])
@pytest.mark.parametrize("pairing", ["matched", "all"])
def test_matching_equals_a_loop_over_pairs(similarity, pairing):
    """Matched pairs are (i, i), all pairs are every (i, j); each distance is written out."""
    a, b = pair()

    def distance(x, y):
        x, y = x.flatten(), y.flatten()
        if similarity == "cosine":
            return 1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
        return (
            sum(abs(p - q) if similarity == "l1" else (p - q) ** 2 for p, q in zip(x.tolist(), y.tolist(), strict=True))
            / 8
        )

    pairs = [(i, i) for i in range(3)] if pairing == "matched" else [(i, j) for i in range(3) for j in range(3)]
    expected = sum(distance(a[i], b[j]) for i, j in pairs) / len(pairs)

    assert losses.matching_loss(a, b, similarity=similarity, pairing=pairing).item() == pytest.approx(expected)


@pytest.mark.parametrize("similarity", ["cosine", "l1", "l2"])
def test_matching_has_the_gradient_of_finite_differences(similarity):
    """torch.autograd.gradcheck in float64."""
    a, b = pair(1)

    assert torch.autograd.gradcheck(
        lambda x: losses.matching_loss(x, b, similarity=similarity, pairing="matched"), a.requires_grad_()
    )


def test_an_unknown_similarity_names_the_key():
    """The error lists what is known."""
    a, b = pair()
    with pytest.raises(ParameterError, match=r"im\.similarity: found 'dot'; known: cosine, l1, l2"):
        losses.matching_loss(a, b, similarity="dot", pairing="matched")


def test_one_inversion_step_by_hand():
    """From alpha_bar 1 to 0.64: 0.8 z + 0.6 eps."""
    z, eps = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5)

    found = inversion_step(z, eps, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.64))

    assert found.item() == pytest.approx(0.8 * 2 + 0.6 * 0.5)


def test_inversion_undoes_ddim_when_the_prediction_is_constant():
    """With a constant eps, Euler steps are exact: inverting a clean latent and running DDIM back restores it."""
    constant = torch.randn(1, 2, 2, 2, dtype=torch.float64)

    def network(z, t, label):
        return torch.cat([constant.expand(len(z), -1, -1, -1)] * 2, 1)

    z0 = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    z = invert(network, SCHEDULE, z0, torch.tensor([999, 999]), torch.tensor([0, 0]), steps=7)
    short = respace(SCHEDULE, 10)
    for step in reversed(range(10)):
        found = Prediction(constant.expand(2, -1, -1, -1), torch.zeros_like(z), constant)
        z = ddim_step(short, z, found, torch.tensor([step, step]), None)

    torch.testing.assert_close(z, z0, rtol=0, atol=1e-4)  # predictions are cast to float32


def test_the_inversion_visits_an_even_grid():
    """With t = 900 and 4 steps the network sees 0, 225, 450, 675 and the result stands at 900."""
    seen = []

    def network(z, t, label):
        seen.append(t.tolist())
        return torch.zeros(len(z), 2, 1, 1, dtype=torch.float64)

    z = invert(
        network, SCHEDULE, torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([900]), torch.tensor([0]), steps=4
    )

    assert seen == [[0], [225], [450], [675]]
    assert z.item() == pytest.approx(SCHEDULE.alpha_bar[900].sqrt().item())


@pytest.mark.parametrize(("everywhere", "calls"), [(True, 3), (False, 1)])
def test_gradients_flow_through_all_steps_or_the_last(everywhere, calls):
    """The number of network calls that receive a gradient is what was asked for."""
    scales = []

    def network(z, t, label):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        scales.append(scale)
        return torch.cat([z * scale, z], 1)

    z0 = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    invert(
        network, SCHEDULE, z0, torch.tensor([800, 500]), torch.tensor([0, 0]), steps=3, through_all_steps=everywhere
    ).sum().backward()

    assert sum(s.grad is not None and s.grad != 0 for s in scales) == calls


def test_the_official_inversion_follows_its_description():
    """One reverse step from z0 told that it stands at t, x0 clipped, noise recomputed (D1, D5)."""
    z0, eps_hat = torch.tensor(1.5, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    t = 300
    a, a_next = SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[t + 1]
    clean = ((z0 - (1 - a).sqrt() * eps_hat) / a.sqrt()).clamp(-1, 1)
    noise = (z0 - a.sqrt() * clean) / (1 - a).sqrt()
    expected = a_next.sqrt() * clean + (1 - a_next).sqrt() * noise

    def network(z, t, label):
        return torch.full((1, 2, 1, 1), -0.4, dtype=torch.float64)

    arguments = (network, SCHEDULE, z0.view(1, 1, 1, 1), torch.tensor([t]), torch.tensor([0]))
    found = official_inversion(*arguments, clip_x0=True)
    free = official_inversion(*arguments, clip_x0=False)

    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(free.item() - found.item()) > 1e-3


def test_the_last_timestep_of_the_official_inversion_has_no_signal():
    """alpha_bar after the last step is 0, so only noise is left."""

    def network(z, t, label):
        return torch.full((1, 2, 1, 1), 0.7)

    found = official_inversion(
        network, SCHEDULE, torch.zeros(1, 1, 1, 1), torch.tensor([999]), torch.tensor([0]), clip_x0=False
    )

    assert found.item() == pytest.approx(0.7, rel=1e-4)


def test_the_variational_term_vanishes_for_a_perfect_posterior():
    """With the true noise and the posterior's own variance the KL is 0; a worse variance costs bits."""
    z0, eps = pair(3, batch=4)
    t = torch.tensor([5, 100, 500, 999])
    from ims3core.diffusion.schedule import add_noise

    z_t = add_noise(SCHEDULE, z0, eps, t)
    perfect = losses.variational_loss(SCHEDULE, z0, z_t, eps, torch.full_like(z0, -1), t)
    worse = losses.variational_loss(SCHEDULE, z0, z_t, eps, torch.full_like(z0, 1), t)

    assert perfect.item() == pytest.approx(0, abs=1e-9)
    assert worse > perfect


def test_the_variational_term_at_zero_is_a_likelihood():
    """At t = 0 it is the negative log-probability of the bin, in bits, by numerical integration."""
    z0 = torch.tensor([[[[0.3]]]], dtype=torch.float64)
    z_t, eps_hat, v = (
        z0 + 0.01,
        torch.tensor([[[[0.5]]]], dtype=torch.float64),
        torch.zeros(1, 1, 1, 1, dtype=torch.float64),
    )
    t = torch.tensor([0])
    from ims3core.diffusion.schedule import model_log_variance, posterior_mean, predict_z0

    mean = posterior_mean(SCHEDULE, predict_z0(SCHEDULE, z_t, eps_hat, t), z_t, t).item()
    std = math.exp(0.5 * model_log_variance(SCHEDULE, v, t).item())
    grid = torch.linspace(0.3 - 1 / 255, 0.3 + 1 / 255, 20001, dtype=torch.float64)
    density = (-0.5 * ((grid - mean) / std) ** 2).exp() / (std * math.sqrt(2 * math.pi))
    expected = -math.log2(torch.trapezoid(density, grid).item())

    assert losses.variational_loss(SCHEDULE, z0, z_t, eps_hat, v, t).item() == pytest.approx(expected, rel=1e-3)


def test_the_variational_term_trains_the_variance_only():
    """The predicted mean is detached: no gradient reaches the noise prediction."""
    z0, eps_hat = pair(4)
    eps_hat.requires_grad_()
    v = torch.zeros_like(z0, requires_grad=True)
    losses.variational_loss(SCHEDULE, z0, z0 * 0.5, eps_hat, v, torch.tensor([3, 40, 700])).backward()

    assert eps_hat.grad is None
    assert v.grad.abs().sum() > 0


def test_the_variational_term_is_the_divergence_of_two_gaussians():
    """For any prediction and any variance, in bits: torch's own, of the true posterior from the modelled one."""
    from torch.distributions import Normal, kl_divergence

    from ims3core.diffusion.schedule import model_log_variance, posterior_mean, predict_z0

    (z0, eps_hat), (z_t, v) = pair(5, batch=3), pair(6, batch=3)
    v, t = v.tanh(), torch.tensor([5, 100, 900])
    true = Normal(posterior_mean(SCHEDULE, z0, z_t, t), SCHEDULE.posterior_variance[t].sqrt().to(z0).view(-1, 1, 1, 1))
    mean = posterior_mean(SCHEDULE, predict_z0(SCHEDULE, z_t, eps_hat, t), z_t, t)
    modelled = Normal(mean, (0.5 * model_log_variance(SCHEDULE, v, t)).exp())
    wanted = kl_divergence(true, modelled).mean() / math.log(2)
    torch.testing.assert_close(losses.variational_loss(SCHEDULE, z0, z_t, eps_hat, v, t), wanted)
