"""Plans have the published length, learning rates and evaluation points."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ims3core.errors import ParameterError
from ims3core.students.plans import OptimiserSpec, Plan, minimax_epochs
from ims3core.students.settings import Protocol

PROTOCOL = {
    "labels": "hard", "temperature": None, "epochs": None, "steps": None, "batch_size": 64, "optimiser": "sgd", "lr": 0.01,
    "lr_for": {}, "momentum": 0.9, "weight_decay": 5e-4, "decay_matrices_only": False, "schedule": "step", "cutmix": 1.0,
    "batchnorm_warmup": False, "evaluations": 4, "norm": "instance", "side": None, "test_crop": 1.0, "augment": {},
}  # fmt: skip


def build(*, network="convnet", ipc=10, classes=10, images=100, **changes):
    """The plan of a plain protocol, except for ``changes``."""
    return Protocol(**PROTOCOL | changes).plan(network, ipc=ipc, classes=classes, images=images, name="odd")


@pytest.mark.parametrize(
    ("ipc", "epochs"),
    [
        (1, 3000),
        (2, 2000),
        (10, 2000),
        (11, 1500),
        (50, 1500),
        (51, 1000),
        (200, 1000),
        (201, 500),
        (500, 500),
        (501, 300),
    ],
)
def test_minimax_epochs_follow_the_table(ipc, epochs):
    """Fewer images per class train longer."""
    assert minimax_epochs(ipc=ipc, classes=10) == epochs
    assert minimax_epochs(ipc=ipc, classes=1000) == epochs


@pytest.mark.parametrize(("ipc", "epochs"), [(1, 2000), (10, 1300), (50, 1000), (100, 600), (300, 300), (900, 200)])
def test_exactly_100_classes_train_two_thirds(ipc, epochs):
    """With 100 classes the epochs shrink by 2/3 and round down to hundreds."""
    assert minimax_epochs(ipc=ipc, classes=100) == epochs


@pytest.mark.parametrize(("ipc", "steps"), [(10, 4_000), (50, 12_000), (100, 16_000)])
def test_minimax_steps_are_the_published_ones(ipc, steps):
    """Ten classes at IPC 10, 50 and 100 take 4000, 12000 and 16000 optimiser steps."""
    assert build(epochs="minimax", ipc=ipc, images=10 * ipc).total_steps == steps


def test_above_100_classes_minimax_is_another_recipe():
    """More than 100 classes train with lr 0.1, weight decay 1e-4 and batches of at least 128."""
    large = build(epochs="minimax", classes=1000, images=10_000)
    hundred = build(epochs="minimax", classes=100, images=1000)

    assert (large.optimiser.lr, large.optimiser.weight_decay, large.batch_size) == (0.1, 1e-4, 128)
    assert (hundred.optimiser.lr, hundred.optimiser.weight_decay, hundred.batch_size) == (0.01, 5e-4, 64)
    assert build(epochs="minimax", classes=1000, images=10_000, batch_size=256).batch_size == 256


def test_fixed_epochs_leave_the_recipe_alone():
    """The recipe for many classes belongs to minimax only."""
    assert build(epochs=300, classes=1000, images=10_000).optimiser.lr == 0.01


def test_a_network_may_have_a_rate_of_its_own():
    """That of the first key that its name contains, else the protocol's."""
    rates = {"efficientnet_b0": 0.002, "vit": 1e-4}

    assert build(steps=1, lr_for=rates, network="timm:vit_tiny_patch16_224").optimiser.lr == 1e-4
    assert build(steps=1, lr_for=rates).optimiser.lr == 0.01


@pytest.mark.parametrize(
    ("ipc", "classes", "size"), [(1, 10, 10), (10, 10, 50), (10, 100, 100), (10, 1000, 100), (800, 10, 90)]
)
def test_a_batch_size_may_go_by_ipc(ipc, classes, size):
    """RDED's rule: a number for each IPC, one for all beyond, a factor for 100 and 1000 classes."""
    rule = {"by_ipc": {1: 10, 10: 50}, "full": 90, "many_classes": 2}

    assert build(steps=1, batch_size=rule, ipc=ipc, classes=classes).batch_size == size


def test_an_ipc_without_a_batch_size_is_named():
    """Between the numbers of a rule nothing is guessed."""
    rule = {"by_ipc": {1: 10, 10: 50}, "full": 90, "many_classes": 2}
    with pytest.raises(
        ParameterError, match=r"protocols\.odd\.batch_size\.by_ipc: has no number for IPC 5; known: 1, 10"
    ):
        build(steps=1, batch_size=rule, ipc=5)


def test_last_small_batch_is_kept():
    """100 images in batches of 64 are two steps an epoch."""
    made = build(epochs=3)

    assert (made.steps_per_epoch, made.total_steps) == (2, 6)


def test_step_schedule_decays_at_two_thirds_and_five_sixths_of_the_epochs():
    """Twelve epochs of two steps: lr falls to 0.2 before epoch 8 and to 0.04 before epoch 10."""
    made = build(epochs=12)

    rates = [made.lr_at(step) for step in range(24)]

    assert rates == pytest.approx([0.01] * 16 + [0.002] * 4 + [0.0004] * 4)


@pytest.mark.parametrize("epochs", [6, 7])
def test_the_rate_is_a_tenth_after_half_of_the_epochs(epochs):
    """Against a loop over epochs of two steps; of an odd number the smaller half keeps the whole rate."""
    made = build(epochs=epochs, schedule="tenth_at_half")

    expected = [0.001 if epoch >= epochs / 2 else 0.01 for epoch in range(epochs) for _ in range(2)]

    assert [made.lr_at(step) for step in range(2 * epochs)] == pytest.approx(expected)


def test_all_real_images_may_be_trained_on_for_another_number_of_epochs():
    """Instead of the epochs or the steps of a set; without one they are trained on as a set is."""
    for length in ({"epochs": 300}, {"steps": 300}):
        plain = Protocol(**PROTOCOL | length)
        long = Protocol(**PROTOCOL | length | {"full_epochs": 7}).on_all_data
        assert plain.on_all_data is plain
        assert (long.epochs, long.steps) == (7, None)
        assert long.plan("convnet", ipc=50, classes=10, images=500).total_steps == 7 * 8


def test_step_schedule_of_a_step_budget_counts_steps():
    """Six steps decay before step 4 and step 5, however long an epoch is."""
    made = build(steps=6, images=1000)

    assert [made.lr_at(step) for step in range(6)] == pytest.approx([0.01] * 4 + [0.002, 0.0004])


def test_cosine_schedule_of_a_step_budget_falls_every_step():
    """Four steps of a half cosine, by hand."""
    made = build(steps=4, schedule="cosine", lr=2.0)

    assert [made.lr_at(step) for step in range(5)] == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0])


def test_cosine_schedule_of_epochs_is_constant_within_an_epoch():
    """Two epochs of two steps: the whole rate, then half of it."""
    made = build(epochs=2, schedule="cosine", lr=2.0)

    assert [made.lr_at(step) for step in range(4)] == pytest.approx([2, 2, 1, 1])


def test_evaluations_of_epochs_fall_on_ends_of_epochs():
    """Ten epochs of two steps scored four times: after 3, 5, 8 and 10 epochs."""
    assert build(epochs=10).evaluation_steps == (6, 10, 16, 20)


def test_evaluations_of_a_step_budget_fall_on_steps():
    """Ten steps scored four times."""
    assert build(steps=10).evaluation_steps == (3, 5, 8, 10)


@given(length=st.integers(1, 200), evaluations=st.integers(1, 300), images=st.integers(1, 300), by_steps=st.booleans())
def test_run_always_ends_in_an_evaluation(length, evaluations, images, by_steps):
    """Evaluations ascend, start after the first step, never exceed what was asked for, and end with the run."""
    made = build(**{"steps" if by_steps else "epochs": length}, evaluations=evaluations, images=images)

    steps = made.evaluation_steps
    assert steps == tuple(sorted(set(steps)))
    assert steps[0] >= 1
    assert steps[-1] == made.total_steps
    assert len(steps) == min(evaluations, length)


@pytest.mark.parametrize("lengths", [{}, {"epochs": 3, "steps": 3}], ids=["neither", "both"])
def test_exactly_one_length_must_be_given(lengths):
    """Epochs and steps exclude each other."""
    with pytest.raises(ParameterError, match=r"protocols: found epochs \w+ and steps \w+, wanted exactly one"):
        Plan(100, 64, OptimiserSpec(0.1), **lengths)
