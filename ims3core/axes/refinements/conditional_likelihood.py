"""Latents moved to where the generator denoises them best, one by one (CaO2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from ims3core.axes.refinements import Needed, Refinement, Start, check_finite, pixels_only
from ims3core.base.schema import Count, NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule

ENCODED = 256  # images that the VAE encodes at once


class ConditionalLikelihood(Refinement):
    """Adam on each latent: mean squared error of the predicted noise plus ``worst_weight`` times its largest error.

    Latents do not see each other: those of a batch only share network calls. Timestep and noise of an iteration are
    drawn per image, the noise from a bank.
    """

    iterations: Count = Field(description="Adam steps per latent (CaO2: 100)")
    lr: Positive = Field(description="learning rate of Adam, of the latents (CaO2: 6e-4)")
    worst_weight: NonNegative = Field(description="weight of the largest error of the noise (CaO2: 10)")
    timesteps: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(
        description="smallest and largest timestep, as indices of the grid (CaO2: 1 and 11)"
    )
    grid: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="steps of the process that timesteps are an index of (CaO2: 50)"
    )
    noises: Count = Field(description="fixed noises in the bank (CaO2: 1024)")
    label: Literal["null", "class"] = Field(description="label under which latents are denoised")
    timestep_form: Literal["corrected", "official"] = Field(
        description="official tells the network the index of the grid as if it were a timestep it was trained with, as "
        "the public code does by mistake"
    )
    batch_size: Count = Field(description="latents refined side by side; they do not see each other")

    @field_validator("factor")
    @classmethod
    def _no_mosaics(cls, factor: int) -> int:
        return pixels_only(factor, "it moves latents")

    def needs(self) -> tuple[Needed, ...]:
        return ("generator",)

    def passes(self, sets: list[int], classes: int) -> dict[str, float]:
        """Every latent goes forward and back through the frozen generator, and is decoded in the end."""
        images = float(classes * sum(sets))
        return {"generator": 2 * self.iterations * images, "decoder": images}

    def in_flight(self, ipc: int, classes: int, side: int) -> dict[str, tuple[int, int]]:
        """A batch of latents."""
        batch = min(self.batch_size, ipc * classes)
        return {"generator": (batch, 0), "decoder": (0, batch)}

    def refine(self, start: Start) -> Tensor:
        import torch

        from ims3core.base.seeds import generator
        from ims3core.diffusion.autoencoder import decode
        from ims3core.diffusion.schedule import respace

        network, trained, vae = start.generator()
        schedule, latents = respace(trained, self.grid), start.encoded(vae, ENCODED)
        labels = start.labels[start.chosen.class_index]
        if self.label == "null":
            labels = torch.full_like(labels, network.config.classes)
        bank = torch.randn(self.noises, *latents.shape[1:], generator=generator(start.seed, "noise-bank"))
        images = []
        for first in start.progress(range(0, len(latents), self.batch_size)):
            batch = slice(first, first + self.batch_size)
            z = torch.nn.Parameter(latents[batch].to(start.machine.device))
            self._move(z, labels[batch].to(start.machine.device), first, start, network, schedule, bank)
            images.append(decode(vae, z.detach()))
        return torch.cat(images)

    def _move(
        self, z: Tensor, labels: Tensor, first: int, start: Start, network: DiT, schedule: Schedule, bank: Tensor
    ) -> None:
        """Moves the latents ``z``, of which the first is number ``first`` of the set, in place."""
        import torch

        from ims3core.base.seeds import generator
        from ims3core.diffusion.schedule import add_noise

        low, high = self.timesteps
        adam = torch.optim.Adam([z], lr=self.lr)
        for iteration in range(self.iterations):
            streams = [generator(start.seed, "latent", n, iteration) for n in range(first, first + len(z))]
            t = torch.tensor([int(torch.randint(low, high + 1, (), generator=s)) for s in streams], device=z.device)
            eps = bank[[int(torch.randint(self.noises, (), generator=s)) for s in streams]].to(z.device)
            noised = add_noise(schedule, z, eps, t)
            timestep = t if self.timestep_form == "official" else schedule.timesteps.to(z.device)[t]
            with start.machine.autocast():
                eps_hat = network(noised, timestep, labels).float()[:, : z.shape[1]]
            loss = likelihood_loss(eps_hat, eps, worst_weight=self.worst_weight).sum()
            check_finite(loss, iteration)
            adam.zero_grad()
            loss.backward()
            adam.step()


def likelihood_loss(eps_hat: Tensor, eps: Tensor, *, worst_weight: float) -> Tensor:
    """Per image (B,): mean squared error of the noise, and ``worst_weight`` times the largest absolute error."""
    error = (eps_hat - eps).flatten(1)
    return error.square().mean(1) + worst_weight * error.abs().amax(1)
