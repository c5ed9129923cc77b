"""The core step of every refinement against a plain version, and that it is the row it claims."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.refinements import (
    Refinement,
    check_finite,
    gradient_matching,
)
from ims3core.axes.refinements.batchnorm_inversion import BatchNormInversion
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.axes.refinements.gradient_matching import GradientMatching
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import NumericsError, ParameterError
from ims3core.students import network_pool, pixels
from ims3core.students.networks import build_student
from ims3core.students.warps import Alike
from tests.axes.refinements.bars import AUGMENT, CAO2, DSA, IDC, MACHINE, SRE2L, Judge, dm, flops, small_vae, start


@pytest.mark.parametrize("refinement", [dm(), GradientMatching(**IDC)], ids=["dm", "idc"])
def test_a_refinement_is_a_function_of_its_seed(refinement):
    """The same set, seed and section give the same images, another seed others; shape and type stay."""
    one, two = refinement.refine(start()), refinement.refine(start())
    assert torch.equal(one, two)
    assert one.shape == (6, 1, 8, 8) and one.dtype == torch.uint8
    assert not torch.equal(one, start().chosen.images)
    assert not torch.equal(one, refinement.refine(start(seed=6)))


@pytest.mark.parametrize("refinement", [dm(), GradientMatching(**IDC)], ids=["dm", "idc"])
def test_who_looks_on_sees_the_set_on_its_way(refinement):
    """From what it started from to what it ends as, another one after every iteration; it ends no different."""
    looks, seen = [], []

    def progress(iterations):
        for n in iterations:
            if looks:  # the iterations, and not those of a network's training
                seen.append(looks[0]())
            yield n

    begin = start(shown=looks.append, progress=progress)
    last = refinement.refine(begin)
    assert len(looks) == 1 and len(seen) > 1
    assert torch.equal(seen[0], begin.chosen.images) and torch.equal(looks[0](), last)
    assert all(not torch.equal(one, other) for one, other in zip(seen, [*seen[1:], last], strict=True))
    assert torch.equal(last, refinement.refine(start()))


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


@pytest.mark.parametrize(
    "row", ["dm", "dm trained", "dm interpolated", "dm narrow", "dm latents", "idc", "sre2l", "cao2"]
)
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
        "dm narrow": dm(options={"width": 16, "padding": 3}), "dm latents": dm(space="latents"), "idc": GradientMatching(**IDC), "sre2l": BatchNormInversion(**SRE2L),
        "cao2": ConditionalLikelihood(**CAO2),
    }[row]  # fmt: skip
    image, z, one = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    options = refinement.network_options
    forward = {
        "convnet": flops(build_student("convnet", classes=3, channels=1, side=8, seed=0, options=options), image),
        "teacher": flops(network, image), "generator": flops(dit, z, one, one), "decoder": flops(vae.decoder, z),
    }  # fmt: skip
    said = sum(count * forward[name] for name, count in refinement.passes([2], 3).items())
    with FlopCounterMode(display=False) as counter:
        refinement.refine(begin)
    assert 0.75 < said / counter.get_total_flops() < 1.35


@pytest.mark.parametrize("refinement", [dm, lambda **changes: GradientMatching(**IDC | changes)], ids=["dm", "idc"])
def test_images_are_compared_in_networks_with_the_row_s_options(refinement, monkeypatch):
    """As the students have them: DSA's networks of grey images of 28 px look at 32."""
    built, real = [], network_pool.build_student

    def build(name, **sizes):
        built.append(real(name, **sizes))
        return built[-1]

    monkeypatch.setattr(network_pool, "build_student", build)
    images = refinement(options={"width": 4, "padding": 3}).refine(start())
    assert {(network.border, network.head.in_features) for network in built} == {(2, 4 * 3**2)}
    assert images.shape == start().images.shape
    with pytest.raises(ValueError, match="'convnet' does not take {'depth': 4}; wanted width and padding, whole"):
        refinement(options={"depth": 4})
    with pytest.raises(ValueError, match="'resnet10' does not take {'width': 4}; wanted options: {}"):
        refinement(network="resnet10", options={"width": 4})


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
    for distance, of in (("l1", torch.abs), ("squared", torch.square)):
        wanted = sum(of(a - b).sum() for a, b in zip(found, other, strict=True))
        torch.testing.assert_close(gradient_matching.gradient_distance(found, other, distance), wanted)


@pytest.mark.parametrize("refinement", [dm(lr=1e30), GradientMatching(**IDC)], ids=["dm", "idc"])
def test_divergence_stops_with_the_iteration(refinement):
    """A loss that is not finite is an error, which the stage turns into a line that says which set is kept."""
    broken = start(statistics=([0.4], [float("nan")]), names=("ant", "bee", "cat"))
    with pytest.raises(NumericsError, match=r"loss( of class ant)? is nan at iteration 0; lower lr"):
        refinement.refine(broken)
