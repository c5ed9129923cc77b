"""Batch-norm inversion and the conditional likelihood: their steps against plain versions."""

import pytest
import torch
import torch.nn.functional as F

from ims3core.axes.refinements import (
    batchnorm_inversion,
    conditional_likelihood,
)
from ims3core.axes.refinements.batchnorm_inversion import BatchNormInversion
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.data import ImageSet
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import ParameterError
from tests.axes.refinements.bars import CAO2, SRE2L, Judge, bars, start


def test_batch_statistics_are_compared_channel_by_channel():
    """Mean and variance over batch and places, Euclidean over channels; zero at the running statistics themselves."""
    values = torch.randn(6, 3, 4, 4)
    mean = torch.stack([values[:, c].mean() for c in range(3)])
    variance = torch.stack([values[:, c].var(correction=0) for c in range(3)])
    assert batchnorm_inversion.statistic_distance(values, mean, variance) < 1e-5
    wanted = (mean - 1).norm() + (variance - 2).norm()
    torch.testing.assert_close(
        batchnorm_inversion.statistic_distance(values, torch.ones(3), torch.full((3,), 2.0)), wanted
    )


def test_inversion_lowers_cross_entropy_and_mismatch():
    """The teacher sees its classes in the images, and its statistics; the images of one pass only share a batch."""
    judge = Judge("batch")
    for _ in range(30):
        judge(bars(40, 2).images.float() / 255)  # running statistics
    judge.eval().requires_grad_(False)
    begin = start(bars(2, 1), teacher=lambda: judge)
    labels = begin.chosen.class_index
    before = F.cross_entropy(judge(begin.chosen.images.float() / 255), labels)
    found = BatchNormInversion(**SRE2L).refine(begin)
    assert F.cross_entropy(judge(found.float() / 255), labels) < before
    assert not judge.norms[0]._forward_pre_hooks


def test_a_teacher_without_batch_norm_is_refused():
    """One line says which teacher has one."""
    with pytest.raises(ParameterError, match="has no batch norm; teacher.source: train with norm: batch"):
        BatchNormInversion(**SRE2L).refine(start(teacher=lambda: Judge("instance")))


def test_the_likelihood_loss_is_caO2s():
    """Mean squared error plus ten times the largest absolute error, image by image; its gradient follows."""
    found, eps = torch.randn(3, 4, 2, 2, requires_grad=True), torch.randn(3, 4, 2, 2)
    wanted = torch.stack([((f - e) ** 2).mean() + 10 * (f - e).abs().max() for f, e in zip(found, eps, strict=True)])
    got = conditional_likelihood.likelihood_loss(found, eps, worst_weight=10.0)
    torch.testing.assert_close(got, wanted)
    assert torch.autograd.gradcheck(
        lambda x: conditional_likelihood.likelihood_loss(x, eps.double(), worst_weight=10.0), found.double()
    )


@pytest.fixture
def generator(tiny_dit):
    from ims3core.diffusion.autoencoder import build_autoencoder

    vae = build_autoencoder(image_channels=1, side=4, latent_channels=4, widths=[8], seed=0)
    return lambda: (tiny_dit.requires_grad_(False), linear_schedule(), vae.eval().requires_grad_(False))


def test_latents_are_refined_alone(generator):
    """A latent's path does not depend on its batch, and the network sees the corrected timestep unless asked otherwise."""
    images = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    begin = start(ImageSet(images, torch.tensor([0, 1, 2, 0, 1])), latents=latents, generator=generator)
    two, five = (ConditionalLikelihood(**CAO2 | {"batch_size": size, "iterations": 2}).refine(begin) for size in (2, 5))
    assert (two.int() - five.int()).abs().max() <= 1
    official = ConditionalLikelihood(**CAO2 | {"timestep_form": "official", "iterations": 2}).refine(begin)
    assert not torch.equal(official, two)


def test_real_images_are_encoded_for_it(generator):
    """A set without latents is encoded by the autoencoder."""
    images = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = ConditionalLikelihood(**CAO2).refine(start(ImageSet(images, torch.arange(3)), generator=generator))
    assert found.shape == images.shape
