"""The optimisation plan of a student: how long, how fast, and when it is scored (hard-label protocol of IDC)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ims3core.shell.errors import ParameterError

# Largest images per class and the epochs for it; beyond the last row, the last value (Minimax, IDC).
MINIMAX_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))
DECAY = 0.2


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that is decided before it starts.

    The learning rate follows a clock: it ticks once per epoch if the length was given in epochs
    (``epochs`` is a number), once per step if it was given in steps (``epochs`` is None).
    """

    images: int
    batch_size: int
    epochs: int | None
    total_steps: int
    steps_per_epoch: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["cosine", "step"]
    cutmix: float
    evaluation_steps: tuple[int, ...]

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step``, counted from 0.

        ``cosine`` falls to 0 at the end; ``step`` multiplies by 0.2 at 2/3 and at 5/6 of the run.
        """
        ticks, tick = (self.total_steps, step) if self.epochs is None else (self.epochs, step // self.steps_per_epoch)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * tick / ticks))
        decays = (tick >= 2 * ticks // 3) + (tick >= 5 * ticks // 6)
        return self.lr * DECAY**decays


def minimax_epochs(*, ipc: int, classes: int) -> int:
    """Epochs by images per class; exactly 100 classes train 2/3 of it, rounded down to hundreds (Minimax, IDC)."""
    epochs = next(epochs for largest, epochs in MINIMAX_EPOCHS if ipc <= largest)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def plan(
    *,
    ipc: int,
    classes: int,
    images: int,
    epochs: int | Literal["minimax"] | None,
    steps: int | None,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: Literal["cosine", "step"],
    cutmix: float,
    evaluations: int,
) -> Plan:
    """The plan of one student run on ``images`` training images, ``ipc`` of each class.

    An epoch visits every image once and keeps its smaller last batch. With ``steps``, the run takes
    that many optimiser steps however many images there are, and its last epoch may be cut short.
    ``epochs: minimax`` is a whole protocol: above 100 classes it also replaces the learning rate
    (0.1), the weight decay (1e-4) and batches below 128 (IDC).

    Args:
        evaluations: how often the student is scored, evenly over the run (at ends of epochs where
            the length is given in epochs); the last is always the end of the run.

    Raises:
        ParameterError: if not exactly one of ``epochs`` and ``steps`` is given.
    """
    if (epochs is None) == (steps is None):
        raise ParameterError(f"protocols: found epochs {epochs} and steps {steps}, wanted exactly one of them")
    if epochs == "minimax":
        epochs = minimax_epochs(ipc=ipc, classes=classes)
        if classes > 100:
            lr, weight_decay, batch_size = 0.1, 1e-4, max(batch_size, 128)
    steps_per_epoch = math.ceil(images / batch_size)
    ticks, steps_per_tick = (epochs, steps_per_epoch) if steps is None else (steps, 1)
    evaluated = {-(-ticks * k // evaluations) * steps_per_tick for k in range(1, evaluations + 1)}
    return Plan(
        images=images,
        batch_size=batch_size,
        epochs=epochs,
        total_steps=ticks * steps_per_tick,
        steps_per_epoch=steps_per_epoch,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        cutmix=cutmix,
        evaluation_steps=tuple(sorted(evaluated)),
    )
