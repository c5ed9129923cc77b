"""One training loop for a generator from scratch and for its fine-tuning: stateless steps, exact resume.

A step is a pure function of (weights, step number): its batch, timesteps, noise and label dropout
come from generators seeded by the step. A checkpoint therefore holds weights, optimiser and EMA only,
and a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ims3core.base.processes import Team
from ims3core.diffusion.batches import Batch, draw_batch
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import Schedule
from ims3core.shell.errors import NumericsError, ParameterError

Objective = Callable[[DiT, Schedule, Batch], dict[str, torch.Tensor]]
"""Named loss terms whose weighted sum is minimised: ``(network, schedule, batch) -> {name: scalar}``.

An objective with a memory has ``predict``, ``begin``, ``remember``, ``state`` and ``load`` too, as
:class:`ims3core.adaptations.minimax.Minimax`: it is told of the whole batch before each step, which may come to it in
slices, and closes the step after it.
"""


@dataclass
class State:
    """What training changes: weights, their average, the optimiser, the log, and what an objective remembers."""

    weights: dict[str, nn.Parameter]
    ema: dict[str, torch.Tensor]
    optimiser: torch.optim.AdamW
    step: int
    curve: list[dict[str, float]]
    memory: dict[str, torch.Tensor]


def start(weights: dict[str, nn.Parameter], *, lr: float, weight_decay: float) -> State:
    """A fresh training state: AdamW with betas (0.9, 0.999), EMA equal to the weights."""
    optimiser = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), fused=True)
    return State(weights, {name: p.detach().clone() for name, p in weights.items()}, optimiser, 0, [], {})


def run(
    network: DiT,
    state: State,
    schedule: Schedule,
    latents: Latents,
    objective: Objective,
    *,
    steps: int,
    batch_size: int,
    label_dropout: float,
    learning_rate: Callable[[int], float],
    ema_decay: Callable[[int], float],
    grad_norm_every: int,
    seed: int,
    autocast: Callable[[], object],
    accumulate: int = 1,
    team: Team | None = None,
    progress: Callable[[Iterable[int]], Iterator[int]] = iter,
    on_step: Callable[[State], None] = lambda state: None,
) -> None:
    """Trains ``state.weights`` of ``network`` from ``state.step`` to ``steps``.

    Every process draws the same batch and takes its slices of it; a step on P processes that
    accumulate A slices each equals one on a single process that accumulates P * A, up to the order of sums.

    Args:
        learning_rate, ema_decay: functions of the step number.
        grad_norm_every: log the gradient norm of each term every so many steps; 0 never.
        accumulate: slices of the batch that each process computes one after the other, to save memory.
        on_step: called after every step, to save checkpoints; by the leader only.

    Raises:
        NumericsError: at the first loss that is not finite, naming step, seed and term.
        ParameterError: if the batch cannot be divided evenly.
    """
    team = team or Team()
    parts = team.size * accumulate
    if parts > 1 and min(batch_size, len(latents.label)) % parts:
        raise ParameterError(
            f"batch_size: {min(batch_size, len(latents.label))} images cannot be divided evenly among "
            f"{team.size} processes of {accumulate} slices"
        )
    device = next(iter(state.weights.values())).device
    weights = list(state.weights.values())
    remembers = hasattr(objective, "remember")
    if remembers:
        objective.load(state.memory)
    network.train()
    for step in progress(range(state.step, steps)):
        batch = draw_batch(
            latents, schedule, step=step, batch_size=batch_size, label_dropout=label_dropout,
            null_label=network.null_label, seed=seed,
        )  # fmt: skip
        state.optimiser.zero_grad()
        log_norms = grad_norm_every > 0 and step % grad_norm_every == 0
        slices = [batch.part(team.rank * accumulate + n, parts, device) for n in range(accumulate)]
        if remembers:
            _begin(objective, network, schedule, batch, slices, team, autocast)
        values, gradients = _backward(network, schedule, slices, objective, weights, 1 / parts, autocast, log_norms)
        team.add_([*values.values(), *(p.grad for p in weights if p.grad is not None)])
        for name, value in values.items():
            if not torch.isfinite(value):
                raise NumericsError(f"training: {name} loss is {value.item()} at step {step} (seed {seed}); lower lr")
        row = {"step": step, **{name: value.item() for name, value in values.items()}}
        for name, found in gradients.items():
            team.add_(found)
            row[f"grad_norm_{name}"] = norm(found)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(step)
        state.optimiser.step()
        decay = ema_decay(step)
        torch._foreach_lerp_(list(state.ema.values()), [p.detach() for p in weights], 1 - decay)
        if remembers:
            objective.remember()
            state.memory = objective.state()
        state.step = step + 1
        state.curve.append(row)
        if team.leads:
            on_step(state)
    network.eval()


def _begin(
    objective: Any, network: DiT, schedule: Schedule, batch: Batch, slices: list[Batch], team: Team,
    autocast: Callable[[], object],
) -> None:  # fmt: skip
    """Opens a step of an objective with a memory; predictions of the whole batch are made first if it is in slices."""
    parts, predicted = team.size * len(slices), None
    if parts > 1:
        with autocast():
            own = torch.cat([objective.predict(network, schedule, part) for part in slices])
        predicted = team.gathered(own)
    first = team.rank * len(slices) * (len(batch.t) // parts)
    objective.begin(batch.z0, batch.label, predicted, parts=parts, first=first)


def _backward(
    network: DiT,
    schedule: Schedule,
    slices: list[Batch],
    objective: Objective,
    weights: list[nn.Parameter],
    share: float,
    autocast: Callable[[], object],
    log_norms: bool,
) -> tuple[dict[str, torch.Tensor], dict[str, list[torch.Tensor]]]:
    """Adds the gradients of all slices, each weighted by ``share``, to the weights.

    Returns:
        Each loss term summed over the slices, and, if ``log_norms``, its own gradient.
    """
    values: dict[str, torch.Tensor] = {}
    gradients: dict[str, list[torch.Tensor]] = {}
    for batch in slices:
        with autocast():
            terms = objective(network, schedule, batch)
        weighted = {name: value * share for name, value in terms.items()}
        for name, value in weighted.items():
            values[name] = values.get(name, 0) + value.detach()
            if log_norms:
                found, before = gradient(value, weights), gradients.get(name)
                gradients[name] = found if before is None else [a + b for a, b in zip(before, found, strict=True)]
        sum(weighted.values()).backward()
    return values, gradients


def gradient(value: torch.Tensor, weights: list[nn.Parameter]) -> list[torch.Tensor]:
    """The gradient of one loss term over all trainable weights; zero where it does not depend on one."""
    return list(torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True))


def norm(tensors: list[torch.Tensor]) -> float:
    """The Euclidean norm of all values together."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def warmup_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Learning-rate factor in [0, 1]: linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def epochs_to_steps(epochs: float, *, images: int, batch_size: int) -> int:
    """Optimiser steps of ``epochs`` epochs of full batches, at least one."""
    return max(1, round(epochs * (images // min(batch_size, images))))
