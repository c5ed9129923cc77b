"""One training loop for a generator from scratch and for its fine-tuning: stateless steps, exact resume.

A step is a pure function of (weights, step number): its batch, timesteps, noise and label dropout
come from generators seeded by the step. A checkpoint therefore holds weights, optimiser and EMA only,
and a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import nn

from ims3core.diffusion.batches import Batch, draw_batch
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import Schedule
from ims3core.errors import NumericsError, ParameterError

if TYPE_CHECKING:
    from ims3core.base.compute import Machine
    from ims3core.base.distributed import ProcessGroup

Objective = Callable[[DiT, Schedule, Batch], dict[str, torch.Tensor]]
"""Named loss terms whose sum is minimised: ``(network, schedule, batch) -> {name: scalar}``."""


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective that remembers earlier steps; what it remembers is part of the checkpoint."""

    def __call__(self, network: DiT, schedule: Schedule, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss terms of the next slice of the batch."""

    def predict(self, network: DiT, schedule: Schedule, batch: Batch) -> torch.Tensor:
        """What :meth:`begin` is told of one slice (B, ...), without gradient."""

    def begin(
        self, z0: torch.Tensor, label: torch.Tensor, predicted: torch.Tensor | None, *, parts: int, first: int
    ) -> None:
        """Opens a step.

        Args:
            z0, label: of the whole batch.
            predicted: predictions of the whole batch; None where the only slice is the batch itself.
            parts: slices of the batch, on all processes together.
            first: row at which the slices of this process begin.
        """

    def remember(self) -> None:
        """Closes a step."""

    def state(self) -> dict[str, torch.Tensor]:
        """What it remembers, as named tensors."""

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes what :meth:`state` returned."""


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


@dataclass(frozen=True)
class TrainingPlan:
    """How a network is trained.

    Attributes:
        steps: optimiser steps in all.
        batch_size: images per step, on all processes together; at most as many as there are.
        label_dropout: share of labels that are replaced by the null class.
        learning_rate, ema_decay: functions of the step number.
        seed: of batches, timesteps, noise and label dropout.
        grad_norm_every: steps between logs of the gradient norm of each term; 0: never.
        accumulate: slices of the batch that each process computes one after the other, to save memory.
    """

    steps: int
    batch_size: int
    label_dropout: float
    learning_rate: Callable[[int], float]
    ema_decay: Callable[[int], float]
    seed: int
    grad_norm_every: int = 0
    accumulate: int = 1


def train(
    network: DiT, state: State, schedule: Schedule, latents: Latents, objective: Objective, plan: TrainingPlan,
    machine: Machine,
) -> Iterator[State]:  # fmt: skip
    """Trains ``state.weights`` of ``network`` from ``state.step`` to ``plan.steps``; yields ``state`` after every step.

    Every process draws the same batch and takes its slices of it; a step on P processes that
    accumulate A slices each equals one on a single process that accumulates P * A, up to the order of sums.

    Raises:
        NumericsError: at the first loss that is not finite, naming step, seed and term.
        ParameterError: if the batch cannot be divided evenly.
    """
    processes, accumulate = machine.processes, plan.accumulate
    parts = _slice_count(plan, len(latents.label), processes)
    weights = list(state.weights.values())
    device = weights[0].device
    stateful = objective if isinstance(objective, StatefulObjective) else None
    if stateful is not None:
        stateful.load(state.memory)
    network.train()
    for step in range(state.step, plan.steps):
        batch = draw_batch(
            latents, schedule, step=step, batch_size=plan.batch_size, label_dropout=plan.label_dropout,
            null_label=network.null_label, seed=plan.seed,
        )  # fmt: skip
        state.optimiser.zero_grad()
        log_norms = plan.grad_norm_every > 0 and step % plan.grad_norm_every == 0
        slices = [batch.part(processes.rank * accumulate + n, parts, device) for n in range(accumulate)]
        if stateful is not None:
            _begin(stateful, network, schedule, batch, slices, machine)
        values, gradients = _backward(
            network, schedule, slices, objective, weights, 1 / parts, machine.autocast, log_norms
        )
        processes.all_reduce([*values.values(), *(p.grad for p in weights if p.grad is not None)])
        row = _log_row(step, plan.seed, values, gradients, processes)
        _update(state, plan, step)
        if stateful is not None:
            stateful.remember()
            state.memory = stateful.state()
        state.step = step + 1
        state.curve.append(row)
        yield state
    network.eval()


def _slice_count(plan: TrainingPlan, images: int, processes: ProcessGroup) -> int:
    """Into how many slices a batch is divided, on all processes together."""
    parts, batch_size = processes.size * plan.accumulate, min(plan.batch_size, images)
    if parts > 1 and batch_size % parts:
        raise ParameterError(
            f"batch_size: {batch_size} images cannot be divided evenly among {processes.size} processes of "
            f"{plan.accumulate} slices"
        )
    return parts


def _begin(
    objective: StatefulObjective, network: DiT, schedule: Schedule, batch: Batch, slices: list[Batch], machine: Machine
) -> None:
    """Opens a step of an objective with a memory; predictions of the whole batch are made first if it is in slices."""
    processes = machine.processes
    parts, predicted = processes.size * len(slices), None
    if parts > 1:
        with machine.autocast():
            local = torch.cat([objective.predict(network, schedule, part) for part in slices])
        predicted = processes.all_gather(local)
    first = processes.rank * len(slices) * (len(batch.t) // parts)
    objective.begin(batch.z0, batch.label, predicted, parts=parts, first=first)


def _backward(
    network: DiT,
    schedule: Schedule,
    slices: list[Batch],
    objective: Objective,
    weights: list[nn.Parameter],
    share: float,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
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
                addend, total = gradient(value, weights), gradients.get(name)
                gradients[name] = addend if total is None else [a + b for a, b in zip(total, addend, strict=True)]
        cast("torch.Tensor", sum(weighted.values())).backward()
    return values, gradients


def _log_row(
    step: int, seed: int, values: dict[str, torch.Tensor], gradients: dict[str, list[torch.Tensor]],
    processes: ProcessGroup,
) -> dict[str, float]:  # fmt: skip
    """The loss terms of a step and their gradient norms, for the log; raises NumericsError if one is not finite."""
    for name, value in values.items():
        if not torch.isfinite(value):
            raise NumericsError(f"training: {name} loss is {value.item()} at step {step} (seed {seed}); lower lr")
    row = {"step": step, **{name: value.item() for name, value in values.items()}}
    for name, tensors in gradients.items():
        processes.all_reduce(tensors)
        row[f"grad_norm_{name}"] = norm(tensors)
    return row


def _update(state: State, plan: TrainingPlan, step: int) -> None:
    """One step of the optimiser and of the average of the weights."""
    for group in state.optimiser.param_groups:
        group["lr"] = plan.learning_rate(step)
    state.optimiser.step()
    weights = [p.detach() for p in state.weights.values()]
    torch._foreach_lerp_(list(state.ema.values()), weights, 1 - plan.ema_decay(step))


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
