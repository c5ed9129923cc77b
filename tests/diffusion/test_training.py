"""The training loop: stateless steps, exact resume."""

from functools import partial

import pytest
import torch

from ims3core.base.compute import Machine
from ims3core.base.distributed import ProcessGroup
from ims3core.diffusion import batches, checkpoints, difffit, losses, training
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import ArtifactError, NumericsError, ParameterError

SCHEDULE = linear_schedule()
CPU = Machine(torch.device("cpu"), "fp32", False, ProcessGroup())


@pytest.fixture
def latents():
    stream = torch.Generator().manual_seed(7)
    mean = torch.randn(2, 10, 4, 4, 4, generator=stream)
    return Latents(mean, torch.full_like(mean, 0.1), torch.arange(10) % 3)


def train(
    network, latents, *, steps, state=None, objective=None, on_step=lambda state: None, every=0, accumulate=1, decay=0.5
):
    weights = dict(network.named_parameters())
    state = state or training.start({n: p for n, p in weights.items() if p.requires_grad}, lr=1e-2, weight_decay=0.0)
    plan = training.TrainingPlan(
        steps=steps, batch_size=4, label_dropout=0.5, learning_rate=lambda step: 1e-2 / (1 + step),
        ema_decay=lambda step: decay, seed=3, grad_norm_every=every, accumulate=accumulate,
    )  # fmt: skip
    objective = objective or partial(losses.denoising_terms, variational=True)
    for after in training.train(network, state, SCHEDULE, latents, objective, plan, CPU):
        on_step(after)
    return state


def test_accumulated_slices_equal_the_whole_batch(tiny_dit, latents):
    """Four slices of one image give the weights, losses and gradient norms of one batch of four; five do not fit."""
    import copy

    other = copy.deepcopy(tiny_dit)
    whole = train(tiny_dit, latents, steps=3, every=1)
    sliced = train(other, latents, steps=3, every=1, accumulate=4)

    # Outputs, not weights: Adam magnifies the rounding of gradients that are 0, as those of the key biases.
    z, t, label = torch.randn(3, 4, 4, 4), torch.tensor([0, 500, 999]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        assert torch.allclose(tiny_dit(z, t, label), other(z, t, label), atol=1e-3)
    for one, two in zip(whole.curve, sliced.curve, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    with pytest.raises(ParameterError, match="4 images cannot be divided evenly among 1 processes of 3 slices"):
        train(other, latents, steps=1, accumulate=3)


def test_recomputing_blocks_changes_no_gradient(tiny_dit, latents):
    """Gradient checkpointing trades time for memory only."""
    import copy

    other = copy.deepcopy(tiny_dit)
    other.checkpoint_blocks = True
    plain, recomputed = train(tiny_dit, latents, steps=2), train(other, latents, steps=2)
    assert all(torch.equal(weight, recomputed.weights[name]) for name, weight in plain.weights.items())


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_dit, latents, tmp_path):
    """Weights, EMA and log are bit-identical after a stop at any checkpoint."""
    import copy

    start = copy.deepcopy(tiny_dit)
    whole = train(tiny_dit, latents, steps=6)

    train(copy.deepcopy(start), latents, steps=3, on_step=partial(checkpoints.checkpoint_every, tmp_path, 3))
    state = training.start(dict(start.named_parameters()), lr=1e-2, weight_decay=0.0)
    checkpoints.load_checkpoint(tmp_path, state)
    assert state.step == 3
    again = train(start, latents, steps=6, state=state)

    for name in whole.weights:
        assert torch.equal(whole.weights[name], again.weights[name]), name
        assert torch.equal(whole.ema[name], again.ema[name]), name
    assert whole.curve == again.curve


def test_a_checkpoint_of_other_weights_is_refused(tiny_dit, latents, tmp_path):
    """A missing weight names the file and what to do."""
    train(tiny_dit, latents, steps=1, on_step=partial(checkpoints.checkpoint_every, tmp_path, 1))
    difffit.add_scales(tiny_dit, 1.0)

    with pytest.raises(ArtifactError, match=r"gamma.* is missing; delete"):
        checkpoints.load_checkpoint(
            tmp_path, training.start(dict(tiny_dit.named_parameters()), lr=1.0, weight_decay=0.0)
        )


def test_an_epoch_shows_every_image_once(latents):
    """Batches of 5 of 10 images: two steps make an epoch, the next has another order."""
    steps = [
        batches.draw_batch(latents, SCHEDULE, step=s, batch_size=5, label_dropout=0.0, null_label=3, seed=0)
        for s in range(4)
    ]
    means = latents.mean.flatten(2)

    def rows(batch):
        return [(means - z.flatten()).square().sum(2).min(0).values.argmin().item() for z in batch.z0]

    epochs = [rows(steps[0]) + rows(steps[1]), rows(steps[2]) + rows(steps[3])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_label_dropout_puts_the_null_class(latents):
    """At 1 every label is null, at 0 none; the inversion keeps the true label."""
    batch = batches.draw_batch(latents, SCHEDULE, step=0, batch_size=8, label_dropout=1.0, null_label=3, seed=0)
    kept = batches.draw_batch(latents, SCHEDULE, step=0, batch_size=8, label_dropout=0.0, null_label=3, seed=0)

    assert batch.dropped_label.tolist() == [3] * 8
    assert torch.equal(kept.dropped_label, kept.label)
    assert torch.equal(batch.label, kept.label)


def test_training_lowers_the_loss_and_logs_gradient_norms(tiny_dit, latents, tmp_path):
    """Thirty steps on ten latents reduce the diffusion loss; the table has one column per term and norm."""
    state = train(tiny_dit, latents, steps=30, every=10)
    first, last = (sum(row["diffusion"] for row in part) for part in (state.curve[:10], state.curve[-10:]))

    assert last < first
    checkpoints.write_curve(tmp_path / "curve.csv", state.curve)
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,diffusion,variational,grad_norm_diffusion,grad_norm_variational"
    assert lines[2].endswith(",,")
    assert len(lines) == 31


def test_the_average_follows_the_weights_with_its_decay(tiny_dit, latents):
    """One step with decay 0.5 puts the average half-way between start and end."""
    before = {name: p.detach().clone() for name, p in tiny_dit.named_parameters()}
    state = train(tiny_dit, latents, steps=1)

    for name, average in state.ema.items():
        torch.testing.assert_close(average, (before[name] + state.weights[name].detach()) / 2)


def test_a_loss_that_is_not_finite_names_step_and_seed(tiny_dit, latents):
    """The run stops at once."""
    tiny_dit.linear_out.bias.data[0] = float("nan")

    with pytest.raises(NumericsError, match=r"diffusion loss is nan at step 0 \(seed 3\)"):
        train(tiny_dit, latents, steps=1)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    """Linear to 1 over the warm-up, half a cosine after it."""
    factors = [training.warmup_cosine(step, 4, 12) for step in range(12)]

    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors == sorted(factors[:4]) + sorted(factors[4:], reverse=True)


def test_epochs_become_steps_of_full_batches():
    """9,025 images at batch 8 make 1,128 steps an epoch; a tiny fraction still makes one."""
    assert training.epochs_to_steps(8, images=9025, batch_size=8) == 9024
    assert training.epochs_to_steps(0.001, images=10, batch_size=64) == 1


def test_the_average_keeps_its_decay_and_takes_the_rest(tiny_dit, latents):
    """After each step: average = decay x average + (1 - decay) x weights, not the other way round."""
    average = {name: p.detach().clone() for name, p in tiny_dit.named_parameters()}

    def follow(state):
        for name, p in state.weights.items():
            average[name] = 0.9 * average[name] + 0.1 * p.detach()

    state = train(tiny_dit, latents, steps=3, on_step=follow, decay=0.9)

    for name, expected in average.items():
        torch.testing.assert_close(state.ema[name], expected)
    assert any((state.ema[n] - p).abs().max() > 1e-3 for n, p in state.weights.items())


def test_an_objective_with_a_memory_is_told_of_every_step(tiny_dit, latents):
    """Loaded once, then opened, asked and closed at each step; what it remembers is part of the state."""
    calls = []

    class Counting:
        def __call__(self, network, schedule, batch):
            calls.append("call")
            return losses.denoising_terms(network, schedule, batch, variational=False)

        def predict(self, network, schedule, batch):
            raise AssertionError("the only slice is the whole batch")

        def begin(self, z0, label, predicted, *, parts, first):
            calls.append((len(z0), predicted, parts, first))

        def remember(self):
            calls.append("remember")

        def state(self):
            return {"calls": torch.tensor(len(calls))}

        def load(self, tensors):
            calls.append(dict(tensors))

    assert isinstance(Counting(), training.StatefulObjective)
    assert not isinstance(partial(losses.denoising_terms, variational=True), training.StatefulObjective)
    state = train(tiny_dit, latents, steps=2, objective=Counting())
    assert calls == [{}, *[(4, None, 1, 0), "call", "remember"] * 2]
    assert state.memory["calls"] == 7


def test_training_goes_on_only_when_it_is_asked(tiny_dit, latents):
    """The state is handed out after every step; who stops asking stops the training there."""
    state = training.start(dict(tiny_dit.named_parameters()), lr=1e-2, weight_decay=0.0)
    plan = training.TrainingPlan(3, 4, 0.0, lambda step: 1e-2, lambda step: 0.5, seed=0)
    states = training.train(
        tiny_dit, state, SCHEDULE, latents, partial(losses.denoising_terms, variational=False), plan, CPU
    )
    assert next(states) is state and state.step == 1 and tiny_dit.training
    assert [after.step for after in states] == [2, 3] and not tiny_dit.training
