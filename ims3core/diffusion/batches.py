"""The training batches of a generator: everything random about a step, from the step number alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ims3core.base.seeds import generator as seeded
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import Schedule


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
