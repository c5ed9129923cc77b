"""Distribution matching: its step against a plain loop, its networks and its terms."""

import dataclasses
import warnings

import pytest
import torch

from ims3core.axes.refinements import (
    distribution_matching,
)
from ims3core.base import compute
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet
from ims3core.students import pixels
from ims3core.students.dsa import siamese
from ims3core.students.network_pool import NetworkPool, RealTask
from ims3core.students.warps import Alike
from tests.axes.refinements.bars import AUGMENT, DSA, MACHINE, bars, dm, start, trained


def test_the_mean_distance_is_dms():
    """Squared Euclidean distance of mean features."""
    a, b = torch.randn(7, 5), torch.randn(3, 5)
    wanted = sum((a[:, d].mean() - b[:, d].mean()) ** 2 for d in range(5))
    torch.testing.assert_close(distribution_matching.distance(a, b, None), wanted)


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
    used, trained, train = start(machine=compiled), [], RealTask.trained
    monkeypatch.setattr(RealTask, "trained", lambda *a, **k: trained.append(train(*a, **k)) or trained[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's compiler
        found = refinement.refine(used).int()
    assert used.shared[(2, 2), True][0][0]._compiled_call_impl is not None
    assert trained[0]._compiled_call_impl is not None
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


@pytest.mark.parametrize("interpolate", [False, True])
def test_the_sets_of_a_row_share_their_trained_networks(interpolate, monkeypatch):
    """They are trained once, by the row's seed: the second set is the same as if it came first."""
    refinement, calls = dm(iterations={1: 2}, networks=2, interpolate=interpolate), []
    original = RealTask.trained
    monkeypatch.setattr(RealTask, "trained", lambda *a, **k: calls.append(1) or original(*a, **k))
    shared = {}
    refinement.refine(start(shared=shared, row_seed=1))
    second = refinement.refine(start(bars(2, 3), shared=shared, row_seed=1, seed=9))
    assert len(calls) == 2
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


def test_tables_follow_the_ipc():
    """The largest IPC of the table that is not larger; below the smallest its own."""
    assert [distribution_matching.by_ipc({1: 300, 10: 60}, ipc) for ipc in (1, 5, 10, 50)] == [300, 300, 60, 60]
    assert distribution_matching.by_ipc({10: 60}, 1) == 60
