"""One training loop for a generator from scratch and for its fine-tuning: stateless steps, exact resume.

A step is a pure function of (weights, step number): its batch, timesteps, noise and label dropout
come from generators seeded by the step. A checkpoint therefore holds weights, optimiser and EMA only,
and a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ims3core import files
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.inversion import invert, official_inversion
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.losses import diffusion_loss, matching_loss, variational_loss
from ims3core.diffusion.schedule import Schedule, add_noise, posterior_mean, predict_z0
from ims3core.errors import ArtifactError, NumericsError, ParameterError
from ims3core.processes import Team
from ims3core.seeds import generator as seeded

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Batch:
    """Everything random about one step, drawn on the CPU."""

    z0: torch.Tensor
    eps: torch.Tensor
    t: torch.Tensor
    label: torch.Tensor
    dropped_label: torch.Tensor
    dropped_label_inversion: torch.Tensor

    def part(self, number: int, parts: int, device: torch.device) -> Batch:
        """The ``number``-th of ``parts`` equal slices, on ``device``."""
        size = len(self.t) // parts
        return Batch(*(tensor[number * size : (number + 1) * size].to(device) for tensor in self.__dict__.values()))


def draw_batch(
    latents: Latents,
    schedule: Schedule,
    *,
    step: int,
    batch_size: int,
    label_dropout: float,
    null_label: int,
    seed: int,
) -> Batch:
    """The batch of step ``step``: shuffled epochs of full batches, fresh posterior samples, timesteps and noise."""
    count = len(latents.label)
    batch_size = min(batch_size, count)
    epoch, position = divmod(step, count // batch_size)
    order = torch.randperm(count, generator=seeded(seed, "epoch-order", epoch))
    rows = order[position * batch_size : (position + 1) * batch_size]
    rng = seeded(seed, "training-step", step)
    variant = torch.randint(len(latents.mean), (batch_size,), generator=rng)
    shape = latents.mean.shape[2:]
    z0 = latents.mean[variant, rows] + latents.std[variant, rows] * torch.randn(batch_size, *shape, generator=rng)
    t = torch.randint(len(schedule), (batch_size,), generator=rng)
    eps = torch.randn(batch_size, *shape, generator=rng)
    label = latents.label[rows]
    dropped = [torch.where(torch.rand(batch_size, generator=rng) < label_dropout, null_label, label) for _ in range(2)]
    return Batch(z0, eps, t, label, *dropped)


Objective = Callable[[DiT, Schedule, Batch], dict[str, torch.Tensor]]
"""Named loss terms whose weighted sum is minimised: ``(network, schedule, batch) -> {name: scalar}``."""


def _denoise(
    network: DiT, schedule: Schedule, batch: Batch, variational: bool
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """The noised latents, the predicted noise, and the terms that both losses share."""
    z_t = add_noise(schedule, batch.z0, batch.eps, batch.t)
    eps_hat, v = network(z_t, batch.t, batch.dropped_label).float().chunk(2, 1)
    terms = {"diffusion": diffusion_loss(eps_hat, batch.eps)}
    if variational:
        terms["variational"] = variational_loss(schedule, batch.z0, z_t, eps_hat, v, batch.t)
    return z_t, eps_hat, terms


def denoising_terms(network: DiT, schedule: Schedule, batch: Batch, *, variational: bool) -> dict[str, torch.Tensor]:
    """``L_diff`` (Eq. 6), plus the variational term of the learned variance if ``variational`` (D7)."""
    return _denoise(network, schedule, batch, variational)[2]


def inversion_matching_terms(
    network: DiT,
    schedule: Schedule,
    batch: Batch,
    *,
    variational: bool,
    lambda_im: float,
    form: str,
    similarity: str,
    inversion_steps: int,
    pairing: str,
    grad_through: str,
    clip_x0: bool,
) -> dict[str, torch.Tensor]:
    """``L_diff`` and ``lambda_im * L_IM`` (Eq. 7), the paper's form or the public code's.

    ``paper``: z_inv at t against z_t of the same image; gradients flow through the inversion, z_t has none.
    ``official``: the posterior mean at t - 1 (with gradient) against one step of :func:`official_inversion`
    (without), label dropout on both sides; D1-D5 of the README. The leading constant of its matching
    term is dropped.
    """
    z_t, eps_hat, terms = _denoise(network, schedule, batch, variational)
    if lambda_im == 0:
        return terms
    if form == "paper":
        inverted = invert(
            network, schedule, batch.z0, batch.t, batch.label,
            steps=inversion_steps, through_all_steps=grad_through == "inversion",
        )  # fmt: skip
        other = z_t
    else:
        inverted = official_inversion(
            network, schedule, batch.z0, batch.t, batch.dropped_label_inversion, clip_x0=clip_x0
        )
        other = posterior_mean(schedule, predict_z0(schedule, z_t, eps_hat, batch.t), z_t, batch.t)
    terms["im"] = lambda_im * matching_loss(inverted, other, similarity=similarity, pairing=pairing)
    return terms


@dataclass
class State:
    """What training changes: weights, their exponential moving average, the optimiser, and the log."""

    weights: dict[str, nn.Parameter]
    ema: dict[str, torch.Tensor]
    optimiser: torch.optim.AdamW
    step: int
    curve: list[dict[str, float]]


def start(weights: dict[str, nn.Parameter], *, lr: float, weight_decay: float) -> State:
    """A fresh training state: AdamW with betas (0.9, 0.999), EMA equal to the weights."""
    optimiser = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999))
    return State(weights, {name: p.detach().clone() for name, p in weights.items()}, optimiser, 0, [])


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
    network.train()
    for step in progress(range(state.step, steps)):
        batch = draw_batch(
            latents, schedule, step=step, batch_size=batch_size, label_dropout=label_dropout,
            null_label=network.null_label, seed=seed,
        )  # fmt: skip
        state.optimiser.zero_grad()
        log_norms = grad_norm_every > 0 and step % grad_norm_every == 0
        slices = [batch.part(team.rank * accumulate + n, parts, device) for n in range(accumulate)]
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
        state.step = step + 1
        state.curve.append(row)
        if team.leads:
            on_step(state)
    network.eval()


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


def save_checkpoint(directory: Path, state: State) -> None:
    """Writes weights, EMA, both Adam moments and the log in one atomic step."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in state.weights.items():
        moments = state.optimiser.state[parameter]
        tensors |= {f"weight.{name}": parameter, f"ema.{name}": state.ema[name]}
        if moments:
            tensors |= {f"exp_avg.{name}": moments["exp_avg"], f"exp_avg_sq.{name}": moments["exp_avg_sq"]}
    # Not files.write_json: the order of the columns must survive, or a resumed curve.csv would differ.
    files.write_bytes(directory / f"curve-{state.step}.json", json.dumps(state.curve).encode())
    files.write_tensors(directory / CHECKPOINT, tensors, {"step": str(state.step)})
    for path in directory.glob("curve-*.json"):
        if path.name != f"curve-{state.step}.json":
            path.unlink()


def load_checkpoint(directory: Path, state: State) -> None:
    """Continues from the checkpoint in ``directory``, if there is one."""
    path = directory / CHECKPOINT
    if not path.is_file():
        return
    from safetensors import safe_open

    tensors = files.read_tensors(path)
    with safe_open(path, "pt") as stream:
        state.step = int(stream.metadata()["step"])
    state.curve = files.read_json(directory / f"curve-{state.step}.json")
    for name, parameter in state.weights.items():
        try:
            parameter.data.copy_(tensors[f"weight.{name}"])
            state.ema[name] = tensors[f"ema.{name}"].to(parameter.device)
            state.optimiser.state[parameter] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
        except KeyError as error:
            raise ArtifactError(f"{path}: {error.args[0]} is missing; delete {directory} to start afresh") from error


def checkpoint_every(directory: Path, steps: int, state: State) -> None:
    """Saves a checkpoint after every ``steps`` steps."""
    if state.step % steps == 0:
        save_checkpoint(directory, state)


def warmup_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Learning-rate factor in [0, 1]: linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def epochs_to_steps(epochs: float, *, images: int, batch_size: int) -> int:
    """Optimiser steps of ``epochs`` epochs of full batches, at least one."""
    return max(1, round(epochs * (images // min(batch_size, images))))


def write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    """Writes the log as a table; a column that a step has no value for is left empty."""
    columns = list(dict.fromkeys(name for row in curve for name in row))
    files.write_csv(path, columns, [[row.get(name) for name in columns] for row in curve])
