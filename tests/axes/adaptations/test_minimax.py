"""Minimax' two terms and memories: against loops, in slices, and resumed."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.minimax import Minimax
from ims3core.base.compute import Machine
from ims3core.base.distributed import ProcessGroup
from ims3core.diffusion import batches, checkpoints, training
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.losses import predict_noise
from ims3core.diffusion.schedule import linear_schedule, predict_z0

SCHEDULE = linear_schedule()
SECTION = {"lambda_representative": 0.5, "lambda_diverse": 0.25, "memory": 5}
CPU = Machine(torch.device("cpu"), "fp32", False, ProcessGroup())


@pytest.fixture
def latents():
    mean = torch.randn(1, 12, 4, 4, 4, generator=torch.Generator().manual_seed(7))
    return Latents(mean, torch.full_like(mean, 0.1), torch.arange(12) % 3)


def train(network, latents, objective, *, steps, accumulate=1, on_step=lambda state: None, state=None):
    weights = dict(network.named_parameters())
    state = state or training.start(weights, lr=1e-3, weight_decay=0.0)
    plan = training.TrainingPlan(
        steps=steps, batch_size=8, label_dropout=0.1, learning_rate=lambda step: 1e-3, ema_decay=lambda step: 0.5,
        seed=3, grad_norm_every=1, accumulate=accumulate,
    )  # fmt: skip
    for after in training.train(network, state, SCHEDULE, latents, objective, plan, CPU):
        on_step(after)
    return state


def test_terms_and_memories_are_their_definition(tiny_dit, latents):
    """Three steps without learning against plain loops over classes, batch items and memory entries."""
    objective, real, predicted = Minimax(**SECTION).objective(variational=False), {}, {}
    for step in range(3):
        batch = batches.draw_batch(latents, SCHEDULE, step=step, batch_size=8, label_dropout=0.1, null_label=3, seed=3)
        objective.begin(batch.z0, batch.label, None, parts=1, first=0)
        terms = objective(tiny_dit, SCHEDULE, batch)
        objective.remember()

        z_t, eps_hat, _ = predict_noise(tiny_dit, SCHEDULE, batch, variational=False)
        z0_hat = predict_z0(SCHEDULE, z_t, eps_hat, batch.t).flatten(1).detach()
        classes = sorted(set(batch.label.tolist()))
        near, far = 0.0, 0.0
        for c in classes:
            own = [z for z, label in zip(z0_hat, batch.label, strict=True) if label == c]
            if c in real:
                near += 1 - min(F.cosine_similarity(z, r, dim=0).item() for z in own for r in real[c])
                far += max(F.cosine_similarity(z, p, dim=0).item() for z in own for p in predicted[c])
        assert terms["representative"].item() == pytest.approx(0.5 * near / len(classes), abs=1e-5)
        assert terms["diverse"].item() == pytest.approx(0.25 * far / len(classes), abs=1e-5)
        for c in classes:
            rows = batch.label == c
            real[c] = [*real.get(c, []), *batch.z0.flatten(1)[rows]][-5:]
            predicted[c] = [*predicted.get(c, []), *z0_hat[rows]][-5:]
            torch.testing.assert_close(objective.real[c], torch.stack(real[c]))
            torch.testing.assert_close(objective.predicted[c], torch.stack(predicted[c]))


def test_without_its_terms_it_is_plain_fine_tuning(tiny_dit, latents):
    """One thing differs: weights 0 give the weights of the diffusion loss, bit for bit."""
    other = copy.deepcopy(tiny_dit)
    nothing = SECTION | {"lambda_representative": 0.0, "lambda_diverse": 0.0}
    train(tiny_dit, latents, Minimax(**nothing).objective(variational=True), steps=3)
    train(other, latents, Diffusion().objective(variational=True), steps=3)
    for one, two in zip(tiny_dit.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    third = copy.deepcopy(other)
    train(third, latents, Minimax(**SECTION).objective(variational=True), steps=3)
    assert any(not torch.equal(a, b) for a, b in zip(third.parameters(), other.parameters(), strict=True))


def test_four_slices_are_one_batch(tiny_dit, latents):
    """Terms, gradient norms and memories equal those of the whole batch, up to the order of sums."""
    other = copy.deepcopy(tiny_dit)
    whole = train(tiny_dit, latents, Minimax(**SECTION).objective(variational=False), steps=4)
    sliced = train(other, latents, Minimax(**SECTION).objective(variational=False), steps=4, accumulate=4)
    for one, two in zip(whole.curve, sliced.curve, strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=1e-5)
    for name, values in whole.memory.items():
        torch.testing.assert_close(sliced.memory[name], values, rtol=1e-3, atol=1e-3)


def test_killed_and_resumed_is_bit_equal(tiny_dit, latents, tmp_path):
    """The memories are in the checkpoint."""
    first, again = copy.deepcopy(tiny_dit), copy.deepcopy(tiny_dit)
    build = partial(Minimax(**SECTION).objective, variational=False)
    whole = train(tiny_dit, latents, build(), steps=5)
    train(first, latents, build(), steps=3, on_step=partial(checkpoints.checkpoint_every, tmp_path, 3))
    state = training.start(dict(again.named_parameters()), lr=1e-3, weight_decay=0.0)
    checkpoints.load_checkpoint(tmp_path, state)
    assert state.memory
    train(again, latents, build(), steps=5, state=state)
    for one, two in zip(tiny_dit.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert state.curve == whole.curve
