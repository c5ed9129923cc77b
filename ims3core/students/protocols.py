"""What a protocol decides before a student is trained: length, learning rate, batches, labels, when it is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ims3core.shell.errors import ParameterError

# Largest images per class and the epochs for it; beyond the last row, the last value (Minimax, IDC).
MINIMAX_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))
DECAY = 0.2
Rule = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that is decided before it starts.

    The learning rate follows a clock: it ticks once per epoch if the length was given in epochs
    (``epochs`` is a number), once per step if it was given in steps (``epochs`` is None).

    Attributes:
        decay_matrices_only: weight decay on tensors of more than one dimension alone (RDED).
        temperature: of the teacher's and the student's softmax; None: the class is the label.
        warm_statistics: also run the student once without gradient on each batch, which updates the statistics of
            batch norm a second time (RDED's code).
        test_crop: share of the side that test images are cropped to, after resizing (224 of 256 in RDED).
    """

    images: int
    batch_size: int
    epochs: int | None
    total_steps: int
    steps_per_epoch: int
    optimiser: Literal["sgd", "adamw"]
    lr: float
    momentum: float
    weight_decay: float
    decay_matrices_only: bool
    schedule: Literal["cosine", "half_cosine", "step", "constant"]
    cutmix: float
    temperature: float | None
    warm_statistics: bool
    test_crop: float
    evaluation_steps: tuple[int, ...]

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step``, counted from 0.

        ``cosine`` falls to 0 at the end, ``half_cosine`` to half of the start (RDED: cosine of a quarter turn, 1 + cos
        falling from 2 to 1); ``step`` multiplies by 0.2 at 2/3 and at 5/6 of the run.
        """
        ticks, tick = (self.total_steps, step) if self.epochs is None else (self.epochs, step // self.steps_per_epoch)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            decays = (tick >= 2 * ticks // 3) + (tick >= 5 * ticks // 6)
            return self.lr * DECAY**decays
        whole = ticks if self.schedule == "cosine" else 2 * ticks
        return self.lr * 0.5 * (1 + math.cos(math.pi * tick / whole))


def minimax_epochs(*, ipc: int, classes: int) -> int:
    """Epochs by images per class; exactly 100 classes train 2/3 of it, rounded down to hundreds (Minimax, IDC)."""
    epochs = next(epochs for largest, epochs in MINIMAX_EPOCHS if ipc <= largest)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs


def batch_of(rule: int | Rule, *, ipc: int, classes: int, images: int, name: str = "of this call") -> int:
    """The batch size of a run; a batch larger than the set is the whole set.

    Args:
        rule: one number for all, or ``by_ipc`` (a number for each IPC), ``full`` (for all data) and ``many_classes``
            (a factor for 100 and 1000 classes), as RDED has it.
        name: the protocol, for the error message.

    Raises:
        ParameterError: the rule has no number for this IPC.
    """
    if isinstance(rule, int):
        return rule
    numbers = rule["by_ipc"]
    if ipc not in numbers and ipc <= max(numbers):
        raise ParameterError(
            f"protocols.{name}.batch_size.by_ipc: has no number for IPC {ipc}; known: {', '.join(map(str, numbers))}"
        )
    return numbers.get(ipc, rule["full"]) * (rule["many_classes"] if classes in (100, 1000) else 1)


def plan(
    *,
    ipc: int,
    classes: int,
    images: int,
    epochs: int | Literal["minimax"] | None,
    steps: int | None,
    batch_size: int | Rule,
    lr: float,
    momentum: float,
    weight_decay: float,
    schedule: Literal["cosine", "half_cosine", "step", "constant"],
    cutmix: float,
    evaluations: int,
    optimiser: Literal["sgd", "adamw"] = "sgd",
    decay_matrices_only: bool = False,
    temperature: float | None = None,
    warm_statistics: bool = False,
    test_crop: float = 1.0,
    name: str = "of this call",
) -> Plan:
    """The plan of one student run on ``images`` training images, ``ipc`` of each class.

    An epoch visits every image once and keeps its smaller last batch; a batch larger than the set is the whole set.
    With ``steps``, the run takes that many optimiser steps however many images there are, and its last epoch may be
    cut short. ``epochs: minimax`` is a whole protocol: above 100 classes it also replaces the learning rate
    (0.1), the weight decay (1e-4) and batches below 128 (IDC).

    Args:
        evaluations: how often the student is scored, evenly over the run (at ends of epochs where
            the length is given in epochs); the last is always the end of the run.

    Raises:
        ParameterError: if not exactly one of ``epochs`` and ``steps`` is given, or no batch size for this IPC.
    """
    if (epochs is None) == (steps is None):
        raise ParameterError(f"protocols: found epochs {epochs} and steps {steps}, wanted exactly one of them")
    batch = batch_of(batch_size, ipc=ipc, classes=classes, images=images, name=name)
    if epochs == "minimax":
        epochs = minimax_epochs(ipc=ipc, classes=classes)
        if classes > 100:
            lr, weight_decay, batch = 0.1, 1e-4, max(batch, 128)
    steps_per_epoch = math.ceil(images / batch)
    ticks, steps_per_tick = (epochs, steps_per_epoch) if steps is None else (steps, 1)
    evaluated = {-(-ticks * k // evaluations) * steps_per_tick for k in range(1, evaluations + 1)}
    return Plan(
        images=images, batch_size=batch, epochs=epochs, total_steps=ticks * steps_per_tick,
        steps_per_epoch=steps_per_epoch, optimiser=optimiser, lr=lr, momentum=momentum, weight_decay=weight_decay,
        decay_matrices_only=decay_matrices_only, schedule=schedule, cutmix=cutmix, temperature=temperature,
        warm_statistics=warm_statistics, test_crop=test_crop, evaluation_steps=tuple(sorted(evaluated)),
    )  # fmt: skip
