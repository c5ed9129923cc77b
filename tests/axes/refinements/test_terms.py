"""Every term, factor and rate of the refinements' losses, one at a time: a slip in one cannot hide behind the others."""

import math

import pytest
import torch
import torch.nn.functional as F

from ims3core.axes.refinements import batchnorm_inversion, distribution_matching
from ims3core.axes.refinements.batchnorm_inversion import BatchNormInversion
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.axes.refinements.gradient_matching import GradientMatching
from ims3core.data import ImageSet
from ims3core.diffusion.schedule import add_noise, linear_schedule, respace
from ims3core.students.network_pool import NetworkPool, RealTask, trained_weights
from tests.axes.refinements.bars import AUGMENT, CAO2, IDC, SRE2L, Judge, bars, dm, start

STILL = AUGMENT.model_copy(update={"rotate": 0.0, "translate": 0.0})


def test_the_cross_entropy_is_added():
    """The loss of a class is its distance plus weight x cross-entropy, and no less: the entropy alone is looked at.

    Beside the distance, whose gradient is hundreds of times larger, its sign would not show.
    """
    begin = start(bars(4, 1), augment=STILL, row_seed=3)
    losses = []
    for weight in (0.0, 2.0):
        refinement = dm(networks=1, train_steps={1: [1, 1]}, cross_entropy=weight)
        matching = distribution_matching._Matching(refinement, begin, distribution_matching._Pixels(begin, factor=1))
        (group,) = matching.groups
        losses.append(torch.stack(matching.losses(group, *matching.networks(0, 1), None, 1)).detach())
    features, head = matching.networks(0, 1)
    entropies = []
    for c in range(3):
        own = (begin.images[begin.chosen.class_index == c].float() / 255 - 0.4) / 0.3
        entropies.append(-head(features(own)).log_softmax(1)[:, c].mean().detach())
    assert min(entropies) > 0.01
    torch.testing.assert_close(losses[1] - losses[0], 2.0 * torch.stack(entropies), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("side", "ipc"), [(8, 2), (16, 2), (8, 4)])
def test_the_rate_of_images_follows_their_number_and_the_square_of_their_side(side, ipc, monkeypatch):
    """lr x IPC / 10 x (side / 224)^2, as a pixel's share of the gradient falls with their number."""
    small, rates, sgd = bars(ipc, 1), [], torch.optim.SGD
    scale = side // 8
    sets = [ImageSet(s.images.repeat_interleave(scale, 2).repeat_interleave(scale, 3), s.class_index)
            for s in (small, bars(20, 2))]  # fmt: skip

    def watched(parameters, lr, **options):
        parameters = list(parameters)
        rates.extend(lr for p in parameters if p.shape == sets[0].images.shape)
        return sgd(parameters, lr=lr, **options)

    monkeypatch.setattr(torch.optim, "SGD", watched)
    GradientMatching(**IDC | {"outer": 1, "inner": 1, "lr": 3.0}).refine(start(sets[0], real=sets[1]))
    assert rates == [pytest.approx(3.0 * ipc / 10 * side**2 / 224**2)]


def test_the_first_batch_norm_counts_by_its_factor():
    """It alone: the distance at the first one times the factor, plus the plain distances at all others."""
    judge = Judge("batch").eval()
    seen = []
    for norm in judge.norms:
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with batchnorm_inversion._BatchStatistics(judge.norms) as statistics, torch.no_grad():
        judge(torch.rand(5, 1, 8, 8))
        found = [statistics.mismatch(factor) for factor in (1.0, 10.0)]
    first, second = (
        (x.mean((0, 2, 3)) - norm.running_mean).norm() + (x.var((0, 2, 3), correction=0) - norm.running_var).norm()
        for x, norm in zip(seen, judge.norms, strict=True)
    )
    assert (first - second).abs() > 0.1
    torch.testing.assert_close(torch.stack(found), torch.stack([first + second, 10 * first + second]))


def test_inversion_lowers_each_of_its_terms():
    """Cross-entropy where the mismatch weighs nothing, and the mismatch where it weighs most: no sign is turned."""
    judge = Judge("batch")
    for _ in range(30):
        judge(bars(40, 2).images.float() / 255)
    judge.eval().requires_grad_(False)
    begin = start(bars(2, 1), augment=STILL, teacher=lambda: judge)

    def terms(images):
        with batchnorm_inversion._BatchStatistics(judge.norms) as statistics, torch.no_grad():
            entropy = F.cross_entropy(judge(images.float() / 255), begin.chosen.class_index)
            return entropy, statistics.mismatch(1.0)

    before = terms(begin.images)
    section = SRE2L | {"first_factor": 1.0, "jitter": 0}
    labels_only, statistics_only = (
        terms(BatchNormInversion(**section | {"statistics_weight": weight}).refine(begin)) for weight in (0.0, 1000.0)
    )
    assert labels_only[0] < 0.75 * before[0] and labels_only[1] > before[1]
    assert statistics_only[1] < 0.85 * before[1]


@pytest.mark.parametrize("form", ["corrected", "official"])
def test_the_timestep_that_the_generator_is_told(form, tiny_dit):
    """Corrected: the one it was trained with at that index of the grid; official: the index, as the public code does.

    Either way the latents are noised as at that index.
    """
    from ims3core.diffusion.autoencoder import build_autoencoder

    vae = build_autoencoder(image_channels=1, side=4, latent_channels=4, widths=[8], seed=0).eval()
    told, latents = [], torch.zeros(5, 4, 4, 4)
    tiny_dit.register_forward_pre_hook(lambda module, inputs: told.append(inputs))
    images = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    begin = start(
        ImageSet(images, torch.tensor([0, 1, 2, 0, 1])), latents=latents,
        generator=lambda: (tiny_dit.requires_grad_(False), linear_schedule(), vae),
    )  # fmt: skip
    section = CAO2 | {"timestep_form": form, "iterations": 8, "batch_size": 5, "lr": 1e-9}
    ConditionalLikelihood(**section).refine(begin)

    schedule = respace(linear_schedule(), 50)
    timesteps = torch.cat([inputs[1] for inputs in told]).tolist()
    allowed = (
        {int(schedule.timesteps[n]): n for n in range(1, 12)} if form == "corrected" else {n: n for n in range(1, 12)}
    )
    assert set(timesteps) <= set(allowed) and len(set(timesteps)) >= 9
    assert max(timesteps) > 100 if form == "corrected" else max(timesteps) <= 11
    assert {min(allowed), max(allowed)} <= set(timesteps)  # both ends are drawn
    noised = torch.cat([inputs[0] for inputs in told]).detach()
    index = torch.tensor([allowed[t] for t in timesteps])
    spread = add_noise(schedule, torch.zeros_like(noised), torch.ones_like(noised), index)[:, 0, 0, 0]
    found = noised.flatten(1).std(1)
    assert torch.corrcoef(torch.stack([found, spread]))[0, 1] > 0.9
    assert (found / spread).mean().item() == pytest.approx(1, abs=0.1)


def test_the_label_under_which_latents_are_denoised(tiny_dit):
    """The null class, or the generator's own label of each image's class, which is not ours."""
    from ims3core.diffusion.autoencoder import build_autoencoder

    vae, told = build_autoencoder(image_channels=1, side=4, latent_channels=4, widths=[8], seed=0).eval(), []
    tiny_dit.register_forward_pre_hook(lambda module, inputs: told.append(inputs[2].tolist()))
    begin = start(
        ImageSet(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2, 0])), latents=torch.zeros(4, 4, 4, 4),
        labels=torch.tensor([2, 0, 1]), generator=lambda: (tiny_dit.requires_grad_(False), linear_schedule(), vae),
    )  # fmt: skip
    for label, wanted in (("null", [3, 3, 3, 3]), ("class", [2, 0, 1, 2])):
        told.clear()
        ConditionalLikelihood(**CAO2 | {"label": label, "iterations": 2, "batch_size": 4}).refine(begin)
        assert told == [wanted] * 2


def test_trained_networks_take_turns(monkeypatch):
    """Their steps are spread evenly from the fewest to the most, both included; each has its turn, in order."""
    begin, lengths = start(), []

    def counted(task, steps, *, lr, seed, compiled=False, progress=iter):
        lengths.append(steps)
        return task.build(seed)

    monkeypatch.setattr(RealTask, "trained", counted)
    task = begin.real_task("convnet")
    pool = NetworkPool(
        task, count=4, steps=(2, 11), interpolate=False, compiled=False, seed=1, shared={},
        weights=lambda which: trained_weights(task, which, 4, 1),
    )  # fmt: skip
    assert lengths == [2, 5, 8, 11]
    turns = [pool(iteration, seed=7)[1] for iteration in range(9)]
    assert len(set(map(id, turns[:4]))) == 4
    assert [turns.index(head) for head in turns] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_the_rate_of_inversion_falls_as_half_a_cosine(monkeypatch):
    """From lr towards 0, anew for every image of a class; Adam's betas are 0.5 and 0.9 (SRe2L)."""
    groups, step = [], torch.optim.Adam.step

    def watched(adam, *arguments, **options):
        groups.append((adam.param_groups[0]["lr"], adam.param_groups[0]["betas"]))
        return step(adam, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    judge = Judge("batch").eval().requires_grad_(False)
    BatchNormInversion(**SRE2L | {"iterations": 4, "lr": 0.2}).refine(start(teacher=lambda: judge))
    half = math.sqrt(0.5)
    once = [0.2, 0.1 * (1 + half), 0.1, 0.1 * (1 - half)]
    assert [lr for lr, _ in groups] == pytest.approx(once * 2)
    assert {betas for _, betas in groups} == {(0.5, 0.9)}


def test_networks_are_trained_on_images_augmented_once():
    """The gradient is that of the mean cross-entropy of the images under one draw of the augmentation."""
    task, rows = start().real_task("convnet"), torch.tensor([3, 50, 80, 119])
    one, other = task.build(1), task.build(1)
    task.backward(one, rows, seed=4)
    images = task.augmentation(task.real.images[rows].float() / 255, 4)
    F.cross_entropy(other((images - 0.4) / 0.3), task.real.class_index[rows]).backward()
    for own, plain in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, plain.grad)
