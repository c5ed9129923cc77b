"""What is decided before a network is trained: its optimiser, how long, in which batches, when it is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from ims3core.errors import ParameterError

OptimiserName = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "half_cosine", "step", "tenth_at_half", "constant"]

# Largest images per class and the epochs for it; beyond the last row, the last value (Minimax, IDC).
MINIMAX_EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (math.inf, 300))
DECAY = 0.2


class PoolNetwork(NamedTuple):
    """One of the networks, trained on real images, that all sets of a refinement look through.

    Attributes:
        fewest, most: training steps of the first and the last of them; the others are spread evenly between.
        number: which of them it is, from 0.
    """

    fewest: int
    most: int
    number: int

    @property
    def file(self) -> str:
        """Where its weights are kept."""
        return f"network-{self.fewest}-{self.most}-{self.number}.safetensors"


@dataclass(frozen=True)
class OptimiserSpec:
    """An optimiser, and how its learning rate falls over a run.

    Attributes:
        momentum: of SGD; AdamW has betas 0.9 and 0.999.
        decay_matrices_only: weight decay on tensors of more than one dimension alone (RDED).
        schedule: ``cosine`` falls to 0 at the end, ``half_cosine`` to half of the start (RDED: cosine of a quarter
            turn, 1 + cos falling from 2 to 1); ``step`` multiplies by 0.2 at 2/3 and at 5/6 of the run,
            ``tenth_at_half`` by 0.1 at 1/2 (DC).
    """

    lr: float
    name: OptimiserName = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_matrices_only: bool = False
    schedule: Schedule = "constant"


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that is decided before it starts.

    An epoch visits every image once and keeps its smaller last batch; a batch larger than the set is the whole set.
    With ``steps``, the run takes that many optimiser steps however many images there are, and its last epoch may be
    cut short. The learning rate follows a clock that ticks once per epoch if the length is given in epochs, else once
    per step.

    Attributes:
        images: number of training images.
        evaluations: how often the network is scored, evenly over the run (at ends of epochs where the length is given
            in epochs); the last is always the end of the run.
        cutmix: probability of CutMix on a batch.
        temperature: of the teacher's and the student's softmax; None: the class is the label.
        batchnorm_warmup: also run the network once without gradient on each batch, which updates the statistics of
            batch norm a second time (RDED's code).
        test_crop: share of the side that test images are cropped to, after resizing (224 of 256 in RDED).

    Raises:
        ParameterError: if not exactly one of ``epochs`` and ``steps`` is given.
    """

    images: int
    batch_size: int
    optimiser: OptimiserSpec
    epochs: int | None = None
    steps: int | None = None
    evaluations: int = 1
    cutmix: float = 0.0
    temperature: float | None = None
    batchnorm_warmup: bool = False
    test_crop: float = 1.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ParameterError(
                f"protocols: found epochs {self.epochs} and steps {self.steps}, wanted exactly one of them"
            )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.batch_size)

    @property
    def _clock(self) -> tuple[int, int]:
        """Ticks of the run, and optimiser steps of a tick."""
        return (self.steps, 1) if self.steps is not None else (self.epochs or 0, self.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        ticks, steps = self._clock
        return ticks * steps

    @property
    def trained_images(self) -> int:
        """Images that a run is trained on, one by one: the last batch of an epoch is smaller."""
        epochs, rest = divmod(self.total_steps, self.steps_per_epoch)
        return epochs * self.images + min(rest * self.batch_size, self.images)

    @cached_property
    def evaluation_steps(self) -> tuple[int, ...]:
        """The steps after which the network is scored, ascending."""
        ticks, steps = self._clock
        return tuple(sorted({-(-ticks * k // self.evaluations) * steps for k in range(1, self.evaluations + 1)}))

    def lr_at(self, step: int) -> float:
        """Learning rate of optimiser step ``step``, counted from 0."""
        (ticks, steps), lr = self._clock, self.optimiser.lr
        tick = step // steps
        if self.optimiser.schedule == "constant":
            return lr
        if self.optimiser.schedule == "step":
            decays = (tick >= 2 * ticks // 3) + (tick >= 5 * ticks // 6)
            return float(lr * DECAY**decays)
        if self.optimiser.schedule == "tenth_at_half":
            return lr * (0.1 if 2 * tick >= ticks else 1.0)
        whole = ticks if self.optimiser.schedule == "cosine" else 2 * ticks
        return lr * 0.5 * (1 + math.cos(math.pi * tick / whole))


def minimax_epochs(*, ipc: int, classes: int) -> int:
    """Epochs by images per class; exactly 100 classes train 2/3 of it, rounded down to hundreds (Minimax, IDC)."""
    epochs = next(epochs for largest, epochs in MINIMAX_EPOCHS if ipc <= largest)
    return epochs * 2 // 3 // 100 * 100 if classes == 100 else epochs
