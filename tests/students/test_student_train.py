"""Students learn, are scored honestly, and train bit-reproducibly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ims3core.base import compute, distributed
from ims3core.base.seeds import generator
from ims3core.data import ImageSet
from ims3core.errors import NumericsError
from ims3core.students import train
from ims3core.students.augment import build_augmentation
from ims3core.students.augment import cutmix as cutmix_batch
from ims3core.students.networks import build_student
from ims3core.students.optimisers import Optimiser
from ims3core.students.plans import OptimiserSpec, Plan
from ims3core.students.settings import Augment
from ims3core.students.train import TrainingSetup, train_student

MEAN, STD = [0.4], [0.3]
OFF = Augment(
    crop_scale=None, flip=0.0, rotate=0.0, translate=0.0, colour=0.0, lighting=0.0, patch_shuffle=1, randaugment=None
)


def make_plan(images, *, optimiser=None, **changes):
    values = {"steps": 30, "batch_size": 8, "evaluations": 3}
    return Plan(images, optimiser=optimiser or OptimiserSpec(0.05, schedule="cosine"), **values | changes)


def augmentation(**on):
    return build_augmentation(OFF.model_copy(update=on), side=8, channels=1)


def setup(plan, *, augment=None, statistics=(MEAN, STD), precision="fp32", teacher=None):
    """How networks are trained here: 8 px, on the CPU."""
    machine = compute.Machine(torch.device("cpu"), precision, False, distributed.ProcessGroup())
    return TrainingSetup(plan, augment or augmentation(), statistics, 8, machine, teacher)


def bars(per_class, *, seed):
    """Three separable classes of 8x8 images: a bright top, bottom or left half under noise."""
    labels = torch.arange(3).repeat(per_class)
    halves = torch.zeros(3, 1, 8, 8)
    halves[0, :, :4], halves[1, :, 4:], halves[2, :, :, :4] = 0.8, 0.8, 0.8
    noise = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (255 * (0.8 * halves[labels] + 0.2 * noise)).to(torch.uint8), labels


def run(
    images, labels, *, network=None, seed=0, augment=None, precision="fp32", held_out=None, on_progress=None, **changes
):
    return train_student(
        network if network is not None else small(), ImageSet(images, labels), ImageSet(*held_out or bars(20, seed=99)),
        setup(make_plan(len(images), **changes), augment=augment, precision=precision), seed=seed, on_progress=on_progress,
    )  # fmt: skip


def small(seed=0):
    """A convnet like the default student's, but narrow."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *[nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.AvgPool2d(2)],
            *[nn.Flatten(), nn.Linear(128, 3)],
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_separable_classes_are_learnt_completely(precision):
    """A convnet student reaches 100 % on a toy problem in either precision."""
    images, labels = bars(4, seed=0)
    student = build_student("convnet", classes=3, channels=1, side=8, seed=0)

    result = run(images, labels, network=student, precision=precision, cutmix=0.5)

    assert result.last_top1 == 100
    assert torch.equal(result.confusion, 20 * torch.eye(3, dtype=torch.int64))


def test_shuffled_labels_destroy_the_score():
    """The score measures what was learnt: labels moved to the next class give 0 %, random ones about chance."""
    images, labels = bars(20, seed=0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))

    assert run(images, labels).last_top1 == 100
    assert run(images, (labels + 1) % 3).last_top1 == 0
    assert run(images, labels[order]).last_top1 < 70


def test_curve_has_a_point_per_evaluation_and_best_is_not_below_last():
    """Points lie at the plan's steps; the best accuracy is the largest of them."""
    result = run(*bars(2, seed=0), optimiser=OptimiserSpec(0.001, schedule="cosine"), evaluations=5)

    assert [point.step for point in result.curve] == [6, 12, 18, 24, 30]
    assert result.last_top1 == result.curve[-1].top1
    assert result.best_top1 == max(point.top1 for point in result.curve) >= result.last_top1


def test_best_is_taken_from_the_whole_curve():
    """A curve that falls has a best above its last."""
    curve = [train.Evaluation(1, 0.5, 80.0), train.Evaluation(2, 0.4, 70.0)]

    result = train.StudentRun(curve=curve, confusion=torch.eye(2))

    assert (result.best_top1, result.last_top1) == (80.0, 70.0)


def test_training_equals_a_plain_loop():
    """The run equals SGD written out: orders per epoch, CutMix per step, rates of the plan, loss weighted by area."""
    images, labels = bars(5, seed=0)
    made = make_plan(15, steps=9, cutmix=0.6)
    loop, seed = small(), 4
    optimiser = torch.optim.SGD(loop.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, fused=False, foreach=False)
    losses = []
    for step in range(9):
        epoch, position = divmod(step, 2)
        order = torch.randperm(15, generator=generator(seed, "order", epoch))
        rows = order[8 * position : 8 * position + 8]
        x, y = (images[rows].float() / 255 - MEAN[0]) / STD[0], labels[rows]
        stream = generator(seed, "cutmix", step)
        partners, share = torch.arange(len(rows)), 0.0
        if torch.rand((), generator=stream) < 0.6:
            x, partners, share = cutmix_batch(x, stream=stream)
        targets = (1 - share) * F.one_hot(y, 3) + share * F.one_hot(y[partners], 3)
        loss = -(targets * loop(x).log_softmax(1)).sum(1).mean()
        optimiser.param_groups[0]["lr"] = made.lr_at(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    network = small()
    result = run(images, labels, network=network, seed=seed, steps=9, cutmix=0.6)

    for ours, theirs in zip(network.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    expected = [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]
    assert [point.train_loss for point in result.curve] == pytest.approx(expected, rel=1e-4)


def test_training_is_bit_reproducible_and_ignores_the_global_stream():
    """Equal seeds give equal weights and curves whatever the global stream holds; the stream is not moved."""
    weights, curves = [], []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        network = small()
        augment = augmentation(crop_scale=[0.7, 1.0], rotate=10.0)
        curves.append(run(*bars(5, seed=0), network=network, augment=augment, cutmix=0.5).curve)
        weights.append(network.state_dict())
        assert torch.equal(torch.get_rng_state(), state)

    assert curves[0] == curves[1]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_training_goes_on_from_any_step_with_the_same_bytes(kind, monkeypatch):
    """Inside a chunk of augmentation or an epoch, before and after an evaluation, from the start and from the end."""
    monkeypatch.setattr(train, "CHUNK_VALUES", 3 * 8 * 64)  # chunks of 3 steps; epochs of 4, the last batch smaller
    data, held_out = ImageSet(*bars(9, seed=1)), ImageSet(*bars(20, seed=99))
    plan = make_plan(27, steps=11, evaluations=2, cutmix=0.5, optimiser=OptimiserSpec(0.05, kind, schedule="cosine"))
    how = setup(plan, augment=augmentation(rotate=20.0, translate=0.1))

    def network(seed):
        return nn.Sequential(small(seed), nn.BatchNorm1d(3))  # which remembers what it has seen

    whole = train.State(network(0), how)
    saved = [{name: value.clone() for name, value in whole.tensors().items()}]
    for state in train.train(whole, data, held_out, how, seed=5):
        saved.append({name: value.clone() for name, value in state.tensors().items()})
    assert len(saved) == 12 and len(whole.curve) == 2
    for step in range(12):
        state = train.State(network(1), how)
        state.load(saved[step])
        assert state.step == step
        assert sum(1 for _ in train.train(state, data, held_out, how, seed=5)) == 11 - step
        found = state.tensors()
        assert found.keys() == saved[-1].keys()
        assert all(torch.equal(found[name], value) for name, value in saved[-1].items())
        assert state.curve == whole.curve and not state.network.training


def test_another_seed_trains_differently():
    """The seed reaches order and CutMix."""
    assert run(*bars(5, seed=0), seed=1).curve != run(*bars(5, seed=0), seed=2).curve


def test_confusion_counts_true_rows_and_predicted_columns():
    """A network that always answers class 2 fills that column, in batches of any size."""
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.tensor([0.0, 0.0, 50.0])
    labels = torch.tensor([0, 0, 0, 1, 1, 2])

    held_out = (torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8), labels)
    result = run(
        *bars(1, seed=0),
        network=constant,
        held_out=held_out,
        optimiser=OptimiserSpec(1e-9),
        batch_size=4,
        steps=1,
        evaluations=1,
    )

    assert result.confusion.tolist() == [[0, 0, 3], [0, 0, 2], [0, 0, 1]]
    assert result.last_top1 == pytest.approx(100 / 6)


def test_scoring_happens_in_eval_mode_and_training_in_train_mode():
    """Dropout is active in training steps only; the network is left in eval mode."""
    modes = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return self.inner(x)

    network = Spy().eval()
    run(*bars(1, seed=0), network=network, held_out=bars(1, seed=1), steps=2, evaluations=2)

    assert modes == [(True, True), (False, False)] * 2
    assert not network.training


def test_bf16_computes_in_bf16_and_keeps_float32_weights():
    """Autocast reaches the network; weights stay float32."""
    dtypes = []
    network = small()
    network[-1].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))

    run(*bars(2, seed=0), network=network, precision="bf16", steps=2)

    assert set(dtypes) == {torch.bfloat16}
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_stops_the_run(bad):
    """A loss that is not a number raises with step, length and seed before any weight is touched."""
    images, labels = bars(2, seed=0)
    network = small()
    network[-1].bias.data[0] = bad
    before = [weight.clone() for weight in network.parameters()]

    with pytest.raises(
        NumericsError, match=r"student: loss nan at step 0 of 30, wanted a finite number \(lr 0\.05, seed 7\)"
    ):
        run(images, labels, network=network, seed=7)

    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True) if b.isfinite().all())


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("matrices_only", [False, True])
def test_a_step_is_that_of_torchs_optimiser(kind, matrices_only):
    """Five steps of momentum, moments and weight decay end in the bits of torch's own; unused weights stay."""
    images, labels = bars(2, seed=0)
    ours, reference, unused = small(), small(), nn.Parameter(torch.ones(3))
    ours.register_parameter("unused", unused)
    descend = Optimiser(ours, OptimiserSpec(0.05, kind, weight_decay=0.05, decay_matrices_only=matrices_only))
    groups = [
        {"params": [p for p in reference.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in reference.parameters() if p.ndim == 1], "weight_decay": 0.0 if matrices_only else 0.05},
    ]
    settings = {"sgd": {"momentum": 0.9}, "adamw": {"betas": (0.9, 0.999)}}[kind]
    torchs = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind](groups, lr=0.05, fused=True, **settings)
    for step in range(5):
        batch = images[step : step + 3].float() / 255
        F.cross_entropy(ours(batch), labels[step : step + 3]).backward()
        descend(0.05 / (1 + step))
        torchs.zero_grad()
        F.cross_entropy(reference(batch), labels[step : step + 3]).backward()
        for group in torchs.param_groups:
            group["lr"] = 0.05 / (1 + step)
        torchs.step()

    for (name, found), expected in zip(small().named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.get_parameter(name), expected)
        assert not torch.equal(found, expected)
    assert torch.equal(unused, torch.ones(3))
    assert all(weight.grad is None for weight in ours.parameters())


def test_test_images_are_cropped_where_the_protocol_says():
    """Resized to side / test_crop, then the centre: a bright border is not seen."""
    images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    images[:, :, :4] = images[:, :, -4:] = 255
    images[:, :, :, :4] = images[:, :, :, -4:] = 255
    inputs = []
    network = small()
    network.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    how = setup(make_plan(4, steps=1, evaluations=1, batch_size=4, test_crop=0.5), statistics=([0.0], [1.0]))
    labels = torch.tensor([0, 1, 2, 0])

    train_student(
        network, ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels), ImageSet(images, labels), how, seed=0
    )

    assert inputs[-1].shape == (4, 1, 8, 8) and inputs[-1].max() == 0
