"""Pixels whose features match those of real images, class by class (DM; NCFM with characteristic functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from ims3core.params import schema
from ims3core.refinements import Start, check_finite

if TYPE_CHECKING:
    from torch import Tensor

READS = "data/real/train"


class Section(schema.Section):
    iterations: dict[schema.Count, schema.Count]
    lr: schema.Positive
    real_batch: schema.Count
    network: str
    networks: schema.Index
    train_steps: Annotated[list[schema.Index], Field(min_length=2, max_length=2)]
    statistic: Literal["mean", "characteristic"]
    directions: schema.Count

    @model_validator(mode="after")
    def _some(self) -> Section:
        if not self.iterations:
            raise ValueError("iterations: found none, wanted a number for IPC 1 at least, for example {1: 300}")
        return self


def iterations_of(table: dict[int, int], ipc: int) -> int:
    """The iterations for an IPC: those of the largest IPC in the table that is not larger, else of the smallest."""
    fitting = [known for known in sorted(table) if known <= ipc]
    return table[fitting[-1] if fitting else min(table)]


def refine(
    start: Start, *, iterations: dict[int, int], lr: float, real_batch: int, network: str, networks: int,
    train_steps: list[int], statistic: str, directions: int,
) -> Tensor:  # fmt: skip
    """Adam on the pixels against the features of a network, another one at each iteration.

    Args:
        networks: 0: a fresh random one each time (DM); else so many, trained on real images for between the two
            ``train_steps``, which take turns.
    """
    import torch

    from ims3core.base.seeds import derive_seed
    from ims3core.students import pixels
    from ims3core.students.augment import Alike
    from ims3core.students.networks import build_student

    chosen, device, autocast = start.chosen, start.machine.device, start.machine.autocast
    classes = int(start.labels.numel())
    images = pixels.as_parameter(chosen.images, device)
    rows = [torch.nonzero(chosen.class_index == c).flatten().to(device) for c in range(classes)]
    real, normalise = pixels.RealBatches(start.real, classes, device), pixels.normaliser(start.statistics, device)
    augment = pixels.differentiable_augmentation(start.augment, images)
    low, high = train_steps
    pool = [
        pixels.briefly_trained(
            network, start.real, classes=classes, steps=low + (high - low) * n // max(1, networks - 1), batch_size=64,
            lr=0.02, seed=derive_seed(start.seed, "trained", n), augment=start.augment, statistics=start.statistics,
            device=device, autocast=autocast,
        ).requires_grad_(False)
        for n in range(networks)
    ]  # fmt: skip
    adam = torch.optim.Adam([images], lr=lr)
    for iteration in start.progress(range(iterations_of(iterations, len(chosen.images) // classes))):
        seed = derive_seed(start.seed, "iteration", iteration)
        if pool:
            judge = pool[iteration % len(pool)]
        else:
            judge = build_student(
                network, classes=classes, channels=images.shape[1], side=images.shape[-1], seed=seed
            ).to(device).requires_grad_(False)  # fmt: skip
        loss = torch.zeros((), device=device)
        for c in range(classes):
            # One transformation for all: an image that is to stand for many is compared under the same view.
            alike = Alike(derive_seed(seed, "augment", c))
            with autocast():
                theirs = judge.features(normalise(augment(real(c, real_batch, seed), alike)))
                ours = judge.features(normalise(augment(images[rows[c]], alike)))
            loss = loss + distance(theirs.float(), ours.float(), statistic=statistic, directions=directions, seed=seed)
        check_finite(loss, iteration)
        adam.zero_grad()
        loss.backward()
        adam.step()
        images.data.clamp_(0, 1)
    return pixels.as_images(images)


def distance(theirs: Tensor, ours: Tensor, *, statistic: str, directions: int, seed: int) -> Tensor:
    """How far two samples of features (n, dim) and (m, dim) are apart.

    ``mean``: squared distance of their means (DM). ``characteristic``: mean squared difference of their empirical
    characteristic functions on random directions, scaled by the spread of ``theirs`` (NCFM without learned sampler).
    """
    if statistic == "mean":
        return (theirs.mean(0) - ours.mean(0)).square().sum()
    import torch

    from ims3core.base.seeds import generator

    drawn = torch.randn(theirs.shape[1], directions, generator=generator(seed, "directions")).to(theirs)
    scale = theirs.std(0).mean().clamp_min(1e-6) * theirs.shape[1] ** 0.5
    phases = [sample @ drawn / scale for sample in (theirs, ours)]
    real, imaginary = ((part(phases[0]).mean(0) - part(phases[1]).mean(0)) for part in (torch.cos, torch.sin))
    return (real.square() + imaginary.square()).mean() * theirs.shape[1]
