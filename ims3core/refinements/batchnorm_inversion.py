"""Images that a teacher recognises and whose statistics are those of its batch norms (SRe2L)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ims3core.params import schema
from ims3core.refinements import Start, check_finite
from ims3core.shell.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor, nn

READS = "data/teacher"


class Section(schema.Section):
    iterations: schema.Count
    lr: schema.Positive
    statistics_weight: schema.NonNegative
    first_factor: schema.NonNegative
    jitter: schema.Index


def passes(sets: list[int], classes: int, *, iterations: int, **other: Any) -> dict[str, float]:
    """Every image goes forward and back through the frozen teacher."""
    return {"teacher": 2.0 * iterations * classes * sum(sets)}


def refine(
    start: Start, *, iterations: int, lr: float, statistics_weight: float, first_factor: float, jitter: int
) -> Tensor:
    """Adam (betas 0.5, 0.9; cosine) on one image of every class at a time, after crop, flip and a roll by ``jitter``.

    The loss is the teacher's cross-entropy plus ``statistics_weight`` times the mismatch of batch statistics to the
    running ones of every batch norm, the first times ``first_factor``.

    Raises:
        ParameterError: the teacher has no batch norm.
    """
    import math

    import torch

    from ims3core.base.seeds import derive_seed, generator
    from ims3core.students import pixels

    teacher = start.teacher()
    if not teacher.norms:
        raise ParameterError(
            "batchnorm_inversion: the teacher in data/teacher has no batch norm; teacher.source: train with norm: batch"
        )
    chosen, device = start.chosen, start.machine.device
    order = torch.argsort(chosen.class_index, stable=True)
    per_class = len(order) // int(start.labels.numel())
    done = torch.empty_like(chosen.images)
    augment = pixels.differentiable_augmentation(start.augment, chosen.images)
    with _Statistics(teacher.norms) as statistics:
        for number in start.progress(range(per_class)):
            rows = order[number::per_class]
            images, labels = pixels.as_parameter(chosen.images[rows], device), chosen.class_index[rows].to(device)
            adam = torch.optim.Adam([images], lr=lr, betas=(0.5, 0.9))
            for iteration in range(iterations):
                seed = derive_seed(start.seed, "iteration", number, iteration)
                adam.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
                shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator(seed, "roll")).tolist()
                seen = augment(images, seed).roll(shift, (2, 3))
                with start.machine.autocast():
                    logits = teacher(seen)
                mismatch = statistics.mismatch(first_factor)
                loss = torch.nn.functional.cross_entropy(logits, labels) + statistics_weight * mismatch
                check_finite(loss, iteration)
                adam.zero_grad()
                loss.backward()
                adam.step()
                images.data.clamp_(0, 1)
            done[rows] = pixels.as_images(images)
    return done


class _Statistics:
    """Watches the inputs of batch norms while open."""

    def __init__(self, norms: list[nn.Module]) -> None:
        self.norms, self.seen, self.hooks = norms, {}, []

    def __enter__(self) -> _Statistics:
        for n, norm in enumerate(self.norms):
            self.hooks.append(norm.register_forward_pre_hook(lambda module, given, n=n: self._keep(n, given[0])))
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, n: int, values: Tensor) -> None:
        self.seen[n] = values

    def mismatch(self, first_factor: float) -> Tensor:
        """Sum over the norms of the distances of batch mean and variance to the running ones."""
        return sum(
            (first_factor if n == 0 else 1.0) * statistic_distance(self.seen[n], norm.running_mean, norm.running_var)
            for n, norm in enumerate(self.norms)
        )


def statistic_distance(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """||batch mean - mean|| + ||batch variance - variance|| over the channels of ``values`` (B, C, ...)."""
    axes = [0, *range(2, values.ndim)]
    values = values.float()
    found = values.var(axes, correction=0)
    return (values.mean(axes) - mean).norm() + (found - variance).norm()
