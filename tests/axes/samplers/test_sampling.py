"""Sampling: guidance, the two samplers, and one random stream per image."""

import pytest
import torch

from ims3core.axes.samplers.ddim import DDIM
from ims3core.axes.samplers.ddpm import DDPM
from ims3core.axes.samplers.none import NoSampler
from ims3core.diffusion import sampling
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import NumericsError, ParameterError

SCHEDULE = linear_schedule()


def draw(network, seeds, labels, *, sampler=DDPM, guidance=2.0, steps=5, guided_channels=3, side=4, null_label=3):
    channels = 4 if side == 4 else 1
    streams = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in seeds], (channels, side, side))
    denoiser = sampling.Denoiser(network, SCHEDULE, null_label, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        return sampler(steps=steps, guidance=guidance, guided_channels=guided_channels).sample(
            denoiser, torch.tensor(labels), streams, None
        )


@pytest.mark.parametrize("sampler", [DDPM, DDIM])
@pytest.mark.parametrize("batch", [1, 3, 7], ids="batch-{}".format)
def test_an_image_does_not_depend_on_its_batch_companions(tiny_dit, sampler, batch):
    """Seven images drawn in batches of 1, 3 or 7 agree up to rounding."""
    seeds, labels = list(range(100, 107)), [0, 1, 2, 0, 1, 2, 0]
    whole = draw(tiny_dit, seeds, labels, sampler=sampler)

    parts = [draw(tiny_dit, seeds[i : i + batch], labels[i : i + batch], sampler=sampler) for i in range(0, 7, batch)]

    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_calls_of_one_size_answer_as_one_call_does(count):
    """Whatever the number of latents, the network sees four at a time; what fills the last call is dropped."""
    sizes = []

    def network(z, t, label):
        sizes.append((len(z), len(t), len(label)))
        return torch.cat([z * t.view(-1, 1, 1, 1), z + label.view(-1, 1, 1, 1)], 1)

    inputs = torch.randn(count, 4, 2, 2), torch.arange(count), torch.arange(count) % 3
    together = network(*inputs)
    sizes.clear()

    assert torch.equal(sampling.in_equal_calls(network, 4)(*inputs), together)
    assert set(sizes) == {(4, 4, 4)}


def test_noise_is_bit_identical_for_any_batch_size():
    """The stream of an image is its seed's alone."""
    seeds = [3, 14, 15]
    together = sampling.NoiseStreams([torch.Generator().manual_seed(s) for s in seeds], (2, 2))
    alone = [sampling.NoiseStreams([torch.Generator().manual_seed(s)], (2, 2)) for s in seeds]

    for _ in range(3):
        assert torch.equal(together(), torch.cat([stream() for stream in alone]))


def test_the_order_of_classes_changes_no_image(tiny_dit):
    """Reversing the batch reverses the images."""
    forward = draw(tiny_dit, [1, 2, 3], [0, 1, 2])

    torch.testing.assert_close(draw(tiny_dit, [3, 2, 1], [2, 1, 0]).flip(0), forward, rtol=1e-3, atol=1e-3)


def test_guidance_extrapolates_on_the_guided_channels_only():
    """Channel by channel: null + s (label - null) on the first three, the conditional one on the fourth."""

    def network(z, t, label):
        value = torch.where(label == 9, 1.0, 3.0).view(-1, 1, 1, 1)
        return value * torch.ones(len(z), 8, 1, 1)

    eps_hat, v, _ = sampling.guided(
        network,
        torch.zeros(2, 4, 1, 1),
        torch.zeros(2),
        torch.tensor([0, 1]),
        null_label=9,
        guidance=4.0,
        guided_channels=3,
    )

    assert eps_hat[0].flatten().tolist() == [9, 9, 9, 3]
    assert v[0].flatten().tolist() == [3, 3, 3, 3]


def test_guidance_one_asks_the_network_once(tiny_dit):
    """Scale 1 equals the conditional prediction and costs half."""
    sizes = []

    def network(z, t, label):
        sizes.append(len(z))
        return tiny_dit(z, t, label)

    plain = draw(network, [1, 2], [0, 1], guidance=1.0, steps=2)

    assert sizes == [2, 2]
    assert torch.isfinite(plain).all()


def test_ddpm_recovers_a_gaussian():
    """For data N(0.5, 0.1^2) the exact noise prediction is known; samples have its mean and spread."""

    def network(z, t, label):
        a = SCHEDULE.alpha_bar[t].float().view(-1, 1, 1, 1)
        clean = (0.5 * (1 - a) + 0.01 * a.sqrt() * z) / (1 - a + 0.01 * a)
        eps = (z - a.sqrt() * clean) / (1 - a).sqrt()
        return torch.cat([eps, -torch.ones_like(eps)], 1)

    for sampler in (DDPM, DDIM):
        found = draw(
            network,
            range(400),
            [0] * 400,
            sampler=sampler,
            guidance=1,
            steps=500,
            guided_channels=1,
            side=1,
            null_label=1,
        )
        assert found.mean().item() == pytest.approx(0.5, abs=0.02)
        assert found.std().item() == pytest.approx(0.1, rel=0.15)


def test_a_latent_that_is_not_finite_stops_the_run():
    """A network that returns NaN is not sampled silently."""
    with pytest.raises(NumericsError, match="not finite"):
        draw(lambda z, t, y: torch.full((len(z), 8, 4, 4), float("nan")), [1], [0])


def test_more_guided_channels_than_latents_are_refused():
    """The key is the sampler's; as many as there are is all of them."""
    DDIM(steps=1, guidance=2.0, guided_channels=4).check_channels(4)
    with pytest.raises(ParameterError, match=r"ddim\.guided_channels: found 5, the generator's latents have 4"):
        DDIM(steps=1, guidance=2.0, guided_channels=5).check_channels(4)


def test_no_sampler_draws_nothing():
    """It fits every source without latents, costs nothing, and says so when it is asked."""
    NoSampler().check_channels(0)
    assert NoSampler().network_calls() == 0 and NoSampler.accepts == ("nothing",)
    with pytest.raises(NotImplementedError, match="draws nothing"):
        NoSampler().sample(None, None, None, None)
