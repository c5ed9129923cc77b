"""The core step of every refinement against a plain version, and that it is the row it claims."""

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.refinements import (
    Refinement,
    Start,
    batchnorm_inversion,
    check_finite,
    conditional_likelihood,
    distribution_matching,
    gradient_matching,
)
from ims3core.axes.refinements.batchnorm_inversion import BatchNormInversion
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.axes.refinements.distribution_matching import DistributionMatching
from ims3core.axes.refinements.gradient_matching import GradientMatching
from ims3core.base import compute, distributed
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import NumericsError, ParameterError
from ims3core.students import pixels
from ims3core.students.dsa import siamese
from ims3core.students.network_pool import NetworkPool
from ims3core.students.networks import build_student
from ims3core.students.settings import Augment
from ims3core.students.warps import Alike

AUGMENT = Augment(
    crop_scale=None, flip=0.0, rotate=5.0, translate=0.05, colour=0.0, lighting=0.0, patch_shuffle=1, randaugment=None
)
DM = {
    "iterations": {1: 30}, "optimiser": "adam", "lr": 0.02, "real_batch": 16, "network": "convnet", "networks": 0,
    "train_steps": {1: [0, 4]}, "statistic": {1: "mean"}, "directions": 64, "interpolate": False, "cross_entropy": 0.0, "space": "pixels",
}  # fmt: skip
IDC = {
    "network": "convnet", "outer": 2, "inner": 3, "pretrain_steps": 2, "train_steps": 1, "network_lr": 0.01, "lr": 5.0,
    "momentum": 0.5, "real_batch": 8, "chosen_batch": 8,
}  # fmt: skip
SRE2L = {"iterations": 20, "lr": 0.05, "statistics_weight": 0.01, "first_factor": 10.0, "jitter": 1}
CAO2 = {
    "iterations": 15, "lr": 0.01, "worst_weight": 10.0, "timesteps": [1, 11], "grid": 50, "noises": 32, "label": "null",
    "timestep_form": "corrected", "batch_size": 2,
}  # fmt: skip
MACHINE = compute.Machine(torch.device("cpu"), "fp32", False, distributed.ProcessGroup())


def bars(per_class, seed):
    """Three classes of 8x8 images: a bright top, bottom or left half under noise."""
    labels = torch.arange(3).repeat(per_class)
    halves = torch.zeros(3, 1, 8, 8)
    halves[0, :, :4], halves[1, :, 4:], halves[2, :, :, :4] = 0.8, 0.8, 0.8
    noise = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ImageSet((255 * (0.8 * halves[labels] + 0.2 * noise)).to(torch.uint8), labels)


def start(chosen=None, **changes):
    values = {
        "chosen": chosen or bars(2, 1), "latents": None, "real": bars(40, 2), "statistics": ([0.4], [0.3]), "augment": AUGMENT,
        "seed": 5, "machine": MACHINE, "labels": torch.arange(3),
    }  # fmt: skip
    return Start(**values | changes)


def flops(network, *inputs):
    """FLOPs of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def dm(**changes):
    """Distribution matching with a plain section, except for ``changes``."""
    return DistributionMatching(**DM | changes)


def trained(begin, steps, seed):
    """A ConvNet as refinements train it on the real images."""
    return begin.real_task("convnet").trained(steps, lr=0.02, seed=seed)


@pytest.mark.parametrize("refinement", [dm(), GradientMatching(**IDC)], ids=["dm", "idc"])
def test_a_refinement_is_a_function_of_its_seed(refinement):
    """The same set, seed and section give the same images, another seed others; shape and type stay."""
    one, two = refinement.refine(start()), refinement.refine(start())
    assert torch.equal(one, two)
    assert one.shape == (6, 1, 8, 8) and one.dtype == torch.uint8
    assert not torch.equal(one, start().chosen.images)
    assert not torch.equal(one, refinement.refine(start(seed=6)))


def test_the_mean_distance_is_dms():
    """Squared Euclidean distance of mean features."""
    a, b = torch.randn(7, 5), torch.randn(3, 5)
    wanted = sum((a[:, d].mean() - b[:, d].mean()) ** 2 for d in range(5))
    torch.testing.assert_close(distribution_matching.distance(a, b, None), wanted)


DSA = {
    "brightness": 1.0, "saturation": 2.0, "contrast": 0.5, "crop": 0.125, "cutout": 0.5, "flip": 0.5, "scale": 1.2,
    "rotate": 15.0, "operations": ["colour", "crop", "cutout", "flip", "scale", "rotate"],
}  # fmt: skip


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_dm_with_dsa_equals_a_plain_loop(optimiser):
    """Two steps: of every class real and chosen images, normalised, under one transformation.

    Adam's steps are in units of [0, 1], those of SGD in units of normalised images, as published.
    """
    refinement = dm(iterations={1: 2}, optimiser=optimiser, lr={"adam": 0.02, "sgd": 0.5}[optimiser])
    augment = AUGMENT.overridden({"dsa": DSA, "rotate": 0.0, "translate": 0.0}, "x")
    begin = start(augment=augment)
    mean, std = (torch.tensor(values) for values in begin.statistics)
    task, real = begin.real_task("convnet"), pixels.RealBatches(begin.real, 3, MACHINE.device)
    plain = siamese(begin.augment.dsa, ([0.0], [1.0]))  # on images that are normalised already
    x = torch.nn.Parameter(begin.images / 255)  # of Adam; of SGD they are normalised, and their range is too
    low, high = torch.zeros(()), torch.ones(())
    descent = torch.optim.Adam([x], lr=0.02)
    if optimiser == "sgd":
        x, low, high = torch.nn.Parameter((x.detach() - mean) / std), -mean / std, (1 - mean) / std
        descent = torch.optim.SGD([x], lr=0.5, momentum=0.5)
    for iteration in range(2):
        seed = derive_seed(begin.seed, "iteration", iteration)
        network, loss = task.build(seed).requires_grad_(False), torch.zeros(())
        for c in range(3):
            view = derive_seed(seed, "augment", c)
            chosen, batch = x[begin.chosen.class_index == c], (real(c, refinement.real_batch, seed) - mean) / std
            one, other = (
                network.features(plain(images, Alike([view], [len(images)]))).mean(0)
                for images in (chosen if optimiser == "sgd" else (chosen - mean) / std, batch)
            )
            loss = loss + (one - other).square().sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
        x.data.clamp_(low, high)
    wanted = x.detach() * std + mean if optimiser == "sgd" else x.detach()

    found = refinement.refine(begin)

    assert (found != begin.images).float().mean() > 0.5
    assert ((found - wanted * 255).abs() <= 0.6).float().mean() > 0.99  # where a gradient is 0, its sign is rounding


def test_gradients_are_matched_under_one_transformation_of_a_class(monkeypatch):
    """With DSA the images of a class are alike, real and chosen; without it image n is as image n."""
    seeds = []
    monkeypatch.setattr(
        pixels,
        "differentiable_augmentation",
        lambda *_: lambda images, seed: seeds.append((len(images), seed)) or images,
    )
    refinement = GradientMatching(**IDC | {"outer": 1, "inner": 1, "pretrain_steps": 0, "train_steps": 0})
    for changes, kind in (({"dsa": DSA}, Alike), ({}, int)):
        seeds.clear()
        refinement.refine(start(augment=AUGMENT.overridden(changes, "x")))
        pairs = list(zip(seeds[::2], seeds[1::2], strict=True))
        assert len(pairs) == 3 and all(isinstance(seed, kind) for _, seed in seeds)
        for (many, one), (few, other) in pairs:
            assert (many, few) == (8, 2)
            assert (
                one == other if kind is int else (one.seeds == other.seeds and (one.sizes, other.sizes) == ([8], [2]))
            )


def test_characteristic_functions_see_more_than_the_mean():
    """Zero for the same sample; positive for equal means and other spread, where the mean sees nothing."""
    a = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    a = a - a.mean(0)
    directions = torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    assert distribution_matching.distance(a, a, directions) == 0
    assert distribution_matching.distance(a, 2 * a, directions) > 0.01
    assert distribution_matching.distance(a, 2 * a, None) < 1e-6


def test_the_characteristic_distance_is_that_of_complex_exponentials():
    """The mean of |E exp(i w x) - E exp(i w y)|^2 over directions w, written with complex numbers, times dimensions."""
    a, b, directions = torch.randn(7, 5), torch.randn(3, 5), torch.randn(5, 11)
    scale = a.std(0).mean() * 5**0.5
    functions = [torch.exp(1j * (x @ directions / scale).to(torch.complex64)).mean(0) for x in (a, b)]
    wanted = 5 * (functions[0] - functions[1]).abs().square().mean()
    torch.testing.assert_close(distribution_matching.distance(a, b, directions), wanted)


def test_compiled_networks_see_the_same(monkeypatch):
    """One step of Adam moves the same pixels the same way, but for rounding, with networks trained and used compiled."""
    if compute.compiler_fault(MACHINE.device):
        pytest.skip("no compiler here")
    refinement = dm(iterations={1: 1}, networks=1, train_steps={1: [2, 2]})
    compiled = dataclasses.replace(MACHINE, compile=True)
    monkeypatch.setattr(pixels, "COMPILING_PAYS", 0)
    used = start(machine=compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's compiler
        found = refinement.refine(used).int()
    assert used.shared[(2, 2), True][0][0]._compiled_call_impl is not None
    assert used.shared[2, 2][1][0]._compiled_call_impl is not None
    wanted = refinement.refine(start()).int()
    assert not torch.equal(found, start().chosen.images)
    assert ((found - wanted).abs() <= 1).float().mean() > 0.98


def test_without_a_compiler_matching_goes_on_with_one_line(monkeypatch, caplog):
    """However many networks are made."""
    monkeypatch.setattr(pixels, "COMPILING_PAYS", 0)
    monkeypatch.setattr(compute, "compiler_fault", lambda device: "no C++ compiler")
    pixels._compiler_works.cache_clear()
    refinement = dm(iterations={1: 3})
    found = refinement.refine(start(machine=dataclasses.replace(MACHINE, compile=True)))
    pixels._compiler_works.cache_clear()
    assert torch.equal(found, refinement.refine(start()))
    assert [line for line in caplog.messages if "compiler" in line] == [compute.NO_COMPILER % "no C++ compiler"]


def test_matching_moves_pixels_towards_the_real_images():
    """From noise, the images of a class become nearer to the class's mean image than to the other means."""
    noise = ImageSet(torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8), torch.arange(3))
    begin = start(noise)
    means = torch.stack([begin.real.images[begin.real.class_index == c].float().mean(0) for c in range(3)])
    for networks in (0, 3):
        found = dm(iterations={1: 150}, networks=networks).refine(begin).float()
        away = torch.cdist(found.flatten(1), means.flatten(1))
        assert away.argmin(1).tolist() == [0, 1, 2]


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


@pytest.mark.parametrize("interpolate", [False, True])
def test_the_sets_of_a_row_share_their_trained_networks(interpolate, monkeypatch):
    """They are trained once, by the row's seed: the second set is the same as if it came first."""
    refinement, calls = dm(iterations={1: 2}, networks=2, interpolate=interpolate), []
    original = NetworkPool._trained
    monkeypatch.setattr(NetworkPool, "_trained", lambda *a: calls.append(1) or original(*a))
    shared = {}
    refinement.refine(start(shared=shared, row_seed=1))
    second = refinement.refine(start(bars(2, 3), shared=shared, row_seed=1, seed=9))
    assert len(calls) == 1 + interpolate
    first = refinement.refine(start(bars(2, 3), row_seed=1, seed=9))
    assert torch.equal(first, second)
    assert not torch.equal(first, refinement.refine(start(bars(2, 3), row_seed=2, seed=9)))


def test_interpolated_networks_lie_between_their_first_and_last_weights(monkeypatch):
    """The one whose turn it is, on the line from build_student's weights to those after training, anywhere on it."""
    refinement = dm(iterations={1: 40}, networks=2, train_steps={1: [6, 6]}, interpolate=True)
    begin, moved = start(row_seed=3), []
    interpolate = NetworkPool._interpolate

    def watched(pool, network, iteration, seed):
        interpolate(pool, network, iteration, seed)
        moved.append(torch.cat([p.detach().flatten() for p in network.parameters()]))

    monkeypatch.setattr(NetworkPool, "_interpolate", watched)
    refinement.refine(begin)
    ends = [
        [torch.cat([p.detach().flatten() for p in trained(begin, steps, derive_seed(3, "trained", n)).parameters()])
         for n in range(2)]
        for steps in (0, 6)
    ]  # fmt: skip
    places = []
    for iteration, weights in enumerate(moved):
        first, last = ends[0][iteration % 2], ends[1][iteration % 2]
        place = float((weights - first) @ (last - first) / (last - first).square().sum())
        assert torch.allclose(weights, first + place * (last - first), atol=1e-6)
        places.append(place)
    assert 0 <= min(places) < 0.1 and 0.9 < max(places) <= 1


def test_cross_entropy_is_added_class_by_class():
    """Adam's first step goes against the sign of the gradient of distance + weight x cross-entropy, written out."""
    plain = AUGMENT.model_copy(update={"rotate": 0.0, "translate": 0.0})
    begin = start(bars(4, 1), augment=plain, row_seed=3)
    refinement = dm(
        iterations={1: 1}, lr=0.05, networks=1, train_steps={1: [20, 20]}, real_batch=1000, cross_entropy=2.0
    )
    moved = refinement.refine(begin).float() - begin.chosen.images.float()
    network = trained(begin, 20, derive_seed(3, "trained", 0))
    images = (begin.chosen.images.float() / 255).requires_grad_()
    loss = torch.zeros(())
    for c in range(3):
        own, real = ((x - 0.4) / 0.3 for x in (
            images[begin.chosen.class_index == c], begin.real.images[begin.real.class_index == c].float() / 255))  # fmt: skip
        loss = loss + (network.features(real).mean(0) - network.features(own).mean(0)).square().sum()
        loss = loss + 2.0 * -network(own).log_softmax(1)[:, c].mean()
    (gradient,) = torch.autograd.grad(loss, images)
    inside = (images > 0.06) & (images < 0.94) & (gradient.abs() > 1e-5)
    assert inside.sum() > 100
    assert (moved.sign() == -gradient.sign())[inside].float().mean() > 0.99


def test_sgd_is_of_pixels():
    """Latents have no mean and deviation to be normalised by."""
    with pytest.raises(ValueError, match="optimiser: found sgd beside space: latents; wanted adam, or space: pixels"):
        dm(optimiser="sgd", space="latents")


@pytest.mark.parametrize(("key", "value"), [("interpolate", True), ("cross_entropy", 1.0)])
def test_random_networks_know_no_class(key, value):
    """What asks for trained networks is refused without them."""
    with pytest.raises(ValueError, match=f"{key}: found {value} beside networks: 0, which are random; wanted trained"):
        dm(**{key: value})


def small_vae():
    from ims3core.diffusion.autoencoder import build_autoencoder

    return build_autoencoder(image_channels=1, side=8, latent_channels=1, widths=[8, 8], seed=3).eval()


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


@pytest.mark.parametrize("what", ["teacher", "generator"])
def test_what_a_refinement_does_not_say_it_needs_it_is_not_given(what):
    """The error says where its class has to name it."""

    class Curious(Refinement):
        def passes(self, sets, classes):
            return {}

        def refine(self, start):
            return getattr(start, what)()

    with pytest.raises(LookupError, match=rf"the {what} was not read: .* name it in needs\(\)"):
        Curious().refine(start())


def test_networks_without_features_are_refused():
    """timm's have no features that could be compared; the line names the network."""
    with pytest.raises(ParameterError, match="network: found 'timm:test_resnet', wanted one of our own"):
        start().real_task("timm:test_resnet").build(0)


def test_the_class_that_diverges_is_named():
    """The first whose own loss is not finite."""
    losses = torch.tensor([1.0, float("inf"), float("nan")])
    with pytest.raises(NumericsError, match="loss of class bee is inf at iteration 7; lower lr"):
        check_finite(losses, 7, ("ant", "bee", "cat"))


@pytest.mark.parametrize("row", ["dm", "dm trained", "dm interpolated", "dm latents", "idc", "sre2l", "cao2"])
def test_what_a_refinement_says_it_costs_is_what_it_computes(row):
    """FLOPs of convolutions and products, counted by torch while it runs, against the passes `ims3 plan` goes by."""
    vae, network = small_vae(), Judge("batch")
    sizes = DitConfig(side=4, channels=1, patch=2, width=16, depth=2, heads=2, classes=3)
    dit = DiT(sizes).eval().requires_grad_(False)
    begin = start(
        latents=torch.zeros(6, 1, 4, 4), teacher=lambda: network.eval().requires_grad_(False),
        generator=lambda: (dit, linear_schedule(), vae.requires_grad_(False)), autoencoder=lambda: vae,
    )  # fmt: skip
    refinement = {
        "dm": dm(), "dm trained": dm(networks=3), "dm interpolated": dm(networks=3, interpolate=True, cross_entropy=1.0),
        "dm latents": dm(space="latents"), "idc": GradientMatching(**IDC), "sre2l": BatchNormInversion(**SRE2L),
        "cao2": ConditionalLikelihood(**CAO2),
    }[row]  # fmt: skip
    image, z, one = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    forward = {
        "convnet": flops(build_student("convnet", classes=3, channels=1, side=8, seed=0), image),
        "teacher": flops(network, image), "generator": flops(dit, z, one, one), "decoder": flops(vae.decoder, z),
    }  # fmt: skip
    said = sum(count * forward[name] for name, count in refinement.passes([2], 3).items())
    with FlopCounterMode(display=False) as counter:
        refinement.refine(begin)
    assert 0.75 < said / counter.get_total_flops() < 1.35


def test_tables_follow_the_ipc():
    """The largest IPC of the table that is not larger; below the smallest its own."""
    assert [distribution_matching.by_ipc({1: 300, 10: 60}, ipc) for ipc in (1, 5, 10, 50)] == [300, 300, 60, 60]
    assert distribution_matching.by_ipc({10: 60}, 1) == 60


def test_layer_gradients_are_those_of_backward():
    """The convolutions' gradients of the cross-entropy, and their distance summed over layers."""
    network = build_student("convnet", classes=3, channels=1, side=8, seed=0)
    x, y = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    found = gradient_matching.layer_gradients(network, x, 1, MACHINE.autocast, differentiable=True)
    F.cross_entropy(network(x), torch.ones(4, dtype=torch.int64)).backward()
    convolutions = [w for w in network.parameters() if w.ndim == 4]
    for one, weight in zip(found, convolutions, strict=True):
        torch.testing.assert_close(one, weight.grad)
    other = gradient_matching.layer_gradients(network, y, 1, MACHINE.autocast, differentiable=False)
    wanted = sum((a - b).abs().sum() for a, b in zip(found, other, strict=True))
    torch.testing.assert_close(gradient_matching.gradient_distance(found, other), wanted)


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


class Judge(torch.nn.Module):
    """A teacher on normalised images."""

    def __init__(self, norm):
        super().__init__()
        self.network = build_student("convnet", classes=3, channels=1, side=8, norm=norm, seed=1)

    @property
    def norms(self):
        return [m for m in self.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    def forward(self, images):
        return self.network((images - 0.4) / 0.3)


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


@pytest.mark.parametrize("refinement", [dm(lr=1e30), GradientMatching(**IDC)], ids=["dm", "idc"])
def test_divergence_stops_with_the_iteration(refinement):
    """A loss that is not finite is an error, which the stage turns into a line that says which set is kept."""
    broken = start(statistics=([0.4], [float("nan")]), names=("ant", "bee", "cat"))
    with pytest.raises(NumericsError, match=r"loss( of class ant)? is nan at iteration 0; lower lr"):
        refinement.refine(broken)
