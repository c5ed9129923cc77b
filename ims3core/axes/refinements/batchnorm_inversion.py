"""Images that a teacher recognises and whose statistics are those of its batch norms (SRe2L)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.refinements import Needed, Refinement, Start, check_finite
from ims3core.base.schema import Count, Index, NonNegative, Positive
from ims3core.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor, nn


class BatchNormInversion(Refinement):
    """Adam (betas 0.5, 0.9; cosine) on one image of every class at a time, after crop, flip and a roll.

    The loss is the teacher's cross-entropy plus ``statistics_weight`` times the mismatch of batch statistics to the
    running ones of every batch norm.
    """

    iterations: Count = Field(description="Adam steps (SRe2L: 4000)")
    lr: Positive = Field(description="learning rate of Adam, of the pixels (SRe2L: 0.25)")
    statistics_weight: NonNegative = Field(description="weight of the batch-norm mismatch (SRe2L: 0.01)")
    first_factor: NonNegative = Field(description="factor of the mismatch at the first batch norm (SRe2L: 10)")
    jitter: Index = Field(description="pixels that images are rolled by at most, to either side (SRe2L: 32)")

    def needs(self) -> tuple[Needed, ...]:
        return ("teacher",)

    def passes(self, sets: list[int], classes: int) -> dict[str, float]:
        """Every image goes forward and back through the frozen teacher."""
        return {"teacher": 2.0 * self.iterations * classes * sum(sets) * self.tiles}

    def in_flight(self, ipc: int, classes: int, side: int) -> dict[str, tuple[int, int]]:
        """One image of every class."""
        return {"teacher": (classes * self.tiles, 0)}

    def refine(self, start: Start) -> Tensor:
        import torch

        teacher = start.teacher()
        if not teacher.norms:
            raise ParameterError(
                "batchnorm_inversion: the teacher in data/teacher has no batch norm; teacher.source: train with "
                "norm: batch"
            )
        order = torch.argsort(start.chosen.class_index, stable=True)
        refined = torch.empty_like(start.images)
        with _BatchStatistics(teacher.norms) as statistics:
            for number in start.progress(range(start.ipc)):
                rows = order[number :: start.ipc]
                refined[rows] = self._invert(start, rows, number, teacher, statistics)
        return refined

    def _invert(
        self, start: Start, rows: Tensor, number: int, teacher: nn.Module, statistics: _BatchStatistics
    ) -> Tensor:
        """The images ``rows``, refined together as uint8; ``number`` is part of their seeds."""
        import torch

        from ims3core.base.seeds import derive_seed, generator
        from ims3core.data.formation import formed
        from ims3core.students import pixels

        augment = pixels.differentiable_augmentation(start.augment, start.images, start.statistics)
        images = pixels.as_parameter(start.images[rows], start.machine.device)
        labels = start.chosen.class_index[rows].repeat_interleave(self.tiles).to(start.machine.device)
        adam = torch.optim.Adam([images], lr=self.lr, betas=(0.5, 0.9))
        for iteration in range(self.iterations):
            seed = derive_seed(start.seed, "iteration", number, iteration)
            adam.param_groups[0]["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
            shift = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=generator(seed, "roll")).tolist()
            batch = augment(formed(images, self.factor), seed).roll(shift, (2, 3))
            with start.machine.autocast():
                logits = teacher(batch)
            mismatch = statistics.mismatch(self.first_factor)
            loss = torch.nn.functional.cross_entropy(logits, labels) + self.statistics_weight * mismatch
            check_finite(loss, iteration)
            adam.zero_grad()
            loss.backward()
            adam.step()
            images.data.clamp_(0, 1)
        return pixels.as_images(images)


class _BatchStatistics:
    """Watches the inputs of batch norms while open."""

    def __init__(self, norms: list[nn.Module]) -> None:
        self.norms = norms
        self.inputs: dict[int, Tensor] = {}

    def __enter__(self) -> _BatchStatistics:
        self.hooks = [norm.register_forward_pre_hook(partial(self._keep, n)) for n, norm in enumerate(self.norms)]
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, n: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inputs[n] = inputs[0]

    def mismatch(self, first_factor: float) -> Tensor:
        """Sum over the norms of the distances of batch mean and variance to the running ones."""
        import torch

        distances = (
            statistic_distance(self.inputs[n], norm.get_buffer("running_mean"), norm.get_buffer("running_var"))
            * (first_factor if n == 0 else 1.0)
            for n, norm in enumerate(self.norms)
        )
        return sum(distances, start=torch.zeros(()))


def statistic_distance(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """||batch mean - mean|| + ||batch variance - variance|| over the channels of ``values`` (B, C, ...)."""
    axes = [0, *range(2, values.ndim)]
    values = values.float()
    batch_mean, batch_variance = values.mean(axes), values.var(axes, correction=0)
    distance: Tensor = (batch_mean - mean).norm() + (batch_variance - variance).norm()
    return distance
