"""Distribution matching of large images in slices, and in the latent space of the VAE."""

import pytest
import torch

from ims3core.axes.refinements import (
    distribution_matching,
)
from ims3core.axes.refinements.batchnorm_inversion import BatchNormInversion
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.axes.refinements.gradient_matching import GradientMatching
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet
from tests.axes.refinements.bars import CAO2, IDC, SRE2L, bars, dm, small_vae, start, trained


@pytest.mark.parametrize("space", ["pixels", "latents"])
def test_classes_share_network_calls_without_changing_the_result(space, monkeypatch):
    """Class by class, as large images go, the images are those of all classes in one call, to one grey value."""
    begin = start(autoencoder=small_vae)
    refinement = dm(iterations={1: 3}, statistic={1: "characteristic"}, space=space)
    together = refinement.refine(begin)
    monkeypatch.setattr(distribution_matching, "PIXELS", 1)
    apart = refinement.refine(begin)
    assert not torch.equal(together, begin.chosen.images)
    assert (together.int() - apart.int()).abs().max() <= 1


def matched_gradient(refinement, begin):
    """Losses of all classes in the first iteration, the gradient of their sum, and the VAE's and network's calls."""
    canvas, calls = distribution_matching._Latents(begin), {"decoder": [], "network": []}
    matching = distribution_matching._Matching(refinement, begin, canvas)
    canvas.vae.decoder.register_forward_pre_hook(lambda module, inputs: calls["decoder"].append(len(inputs[0])))
    features, head = matching.networks(0, 1)
    features.register_forward_pre_hook(lambda module, inputs: calls["network"].append(len(inputs[0])))
    directions = matching.directions(head.in_features, 1)
    losses = []
    for group in matching.groups:
        losses.append(torch.stack(matching.losses(group, features, head, directions, 1)))
        losses[-1].sum().backward()
    return torch.cat(losses).detach(), canvas.values.grad, calls


@pytest.mark.parametrize(("statistic", "tolerance"), [("mean", 1e-5), ("characteristic", 1e-4)])
def test_large_images_are_matched_in_slices_with_the_same_gradient(statistic, tolerance, monkeypatch):
    """Two images, two real ones at a time: losses and gradient of a decoder that sees whole classes, within rounding."""
    section = {"networks": 1, "statistic": {1: statistic}, "cross_entropy": 0.5, "space": "latents"}
    refinement, begin = dm(**section), start(bars(5, 1), autoencoder=small_vae)
    losses, gradient, whole = matched_gradient(refinement, begin)
    assert whole == {"decoder": [15], "network": [15, 48]}
    monkeypatch.setattr(distribution_matching, "MOVED", 2 * 8 * 8**2)
    monkeypatch.setattr(distribution_matching, "PIXELS", 2 * 8**2)
    in_slices = matched_gradient(refinement, begin)
    again = [1, 2, 2]  # slices are computed again in the backward pass, the last one first
    assert in_slices[2] == {"decoder": [2, 2, 1, *again] * 3, "network": [2, 2, 1, *[2] * 8, *again] * 3}
    torch.testing.assert_close(in_slices[0], losses)
    assert (in_slices[1] - gradient).norm() < tolerance * gradient.norm()


@pytest.mark.parametrize("drawn", [True, False], ids=["from latents", "from real images"])
def test_matching_in_latent_space_stays_on_what_the_vae_draws(drawn):
    """The images are decoded latents, those of the start moved; the features come nearer to the real ones."""
    from ims3core.diffusion import autoencoder

    vae = small_vae()
    noise = torch.randn(126, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    latents, centres = noise[:6], noise[3:6].repeat_interleave(40, 0)
    real = ImageSet(autoencoder.decode(vae, 2 * centres + 0.3 * noise[6:]), torch.arange(3).repeat_interleave(40))
    begun = autoencoder.decode(vae, latents if drawn else autoencoder.encode(vae, bars(2, 1).images)[0])
    chosen = ImageSet(begun if drawn else bars(2, 1).images, bars(2, 1).class_index)
    begin = start(chosen, real=real, latents=latents if drawn else None, autoencoder=lambda: vae)
    section = {"space": "latents", "networks": 1, "train_steps": {1: [40, 40]}}
    found = dm(**section, iterations={1: 150}, lr=0.1).refine(begin)
    judge = trained(begin, 40, derive_seed(begin.row_seed, "trained", 0))

    def gap(images):
        features, theirs = (judge.features((x.float() / 255 - 0.4) / 0.3).detach() for x in (images, real.images))
        pairs = [(features[chosen.class_index == c], theirs[real.class_index == c]) for c in range(3)]
        return sum((one.mean(0) - other.mean(0)).norm() for one, other in pairs)

    assert found.shape == begun.shape and found.dtype == torch.uint8
    assert gap(found) < 0.3 * gap(begun)
    still = dm(**section, iterations={1: 1}, lr=1e-9).refine(begin)
    assert torch.equal(still, begun)


def test_a_row_in_latent_space_reads_the_generator():
    """What a row looks at follows from its values."""
    assert dm().needs() == GradientMatching(**IDC).needs() == ()
    assert dm(space="latents").needs() == ConditionalLikelihood(**CAO2).needs() == ("generator",)
    assert BatchNormInversion(**SRE2L).needs() == ("teacher",)
