"""Latents moved to where the generator denoises them best, one by one (CaO2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ims3core.params import schema
from ims3core.refinements import Start, check_finite

if TYPE_CHECKING:
    from torch import Tensor

READS = "data/generator"


class Section(schema.Section):
    iterations: schema.Count
    lr: schema.Positive
    worst_weight: schema.NonNegative
    timesteps: Annotated[list[schema.Count], Field(min_length=2, max_length=2)]
    grid: Annotated[int, Field(ge=2, le=1000)]
    noises: schema.Count
    label: Literal["null", "class"]
    timestep_form: Literal["corrected", "official"]
    batch_size: schema.Count


def passes(sets: list[int], classes: int, *, iterations: int, **other: Any) -> dict[str, float]:
    """Every latent goes forward and back through the frozen generator."""
    return {"generator": 2.0 * iterations * classes * sum(sets)}


def refine(
    start: Start, *, iterations: int, lr: float, worst_weight: float, timesteps: list[int], grid: int, noises: int,
    label: str, timestep_form: str, batch_size: int,
) -> Tensor:  # fmt: skip
    """Adam on each latent: mean squared error of the predicted noise plus ``worst_weight`` times its largest error.

    Latents do not see each other: those of a batch only share network calls. Timestep and noise of an iteration are
    drawn per image, the noise from a bank of ``noises``.

    Args:
        timesteps: smallest and largest index of the ``grid``-step process.
        timestep_form: ``official`` tells the network the index of the grid as if it were one of the trained process,
            as the public code does by mistake.
    """
    import torch

    from ims3core.base.seeds import generator
    from ims3core.diffusion.autoencoder import decode, encode
    from ims3core.diffusion.schedule import add_noise, respace

    network, trained, vae = start.generator()
    device, chosen = start.machine.device, start.chosen
    schedule = respace(trained, grid)
    latents = start.latents
    if latents is None:
        latents = torch.cat([encode(vae, part)[0] for part in chosen.images.split(256)])
    labels = start.labels[chosen.class_index]
    if label == "null":
        labels = torch.full_like(labels, network.config.classes)
    bank = torch.randn(noises, *latents.shape[1:], generator=generator(start.seed, "noise-bank"))
    low, high = timesteps
    done = []
    for first in start.progress(range(0, len(latents), batch_size)):
        z = torch.nn.Parameter(latents[first : first + batch_size].to(device))
        own = labels[first : first + batch_size].to(device)
        adam = torch.optim.Adam([z], lr=lr)
        for iteration in range(iterations):
            streams = [generator(start.seed, "latent", n, iteration) for n in range(first, first + len(z))]
            t = torch.tensor([int(torch.randint(low, high + 1, (), generator=s)) for s in streams], device=device)
            eps = bank[[int(torch.randint(noises, (), generator=s)) for s in streams]].to(device)
            noised = add_noise(schedule, z, eps, t)
            told = t if timestep_form == "official" else schedule.timesteps.to(device)[t]
            with start.machine.autocast():
                found = network(noised, told, own).float()[:, : z.shape[1]]
            loss = likelihood_loss(found, eps, worst_weight=worst_weight).sum()
            check_finite(loss, iteration)
            adam.zero_grad()
            loss.backward()
            adam.step()
        done.append(decode(vae, z.detach()))
    return torch.cat(done)


def likelihood_loss(found: Tensor, eps: Tensor, *, worst_weight: float) -> Tensor:
    """Per image (B,): mean squared error of the noise, and ``worst_weight`` times the largest absolute error."""
    error = (found - eps).flatten(1)
    return error.square().mean(1) + worst_weight * error.abs().amax(1)
