"""Images whose features match those of real images, class by class.

DM (Zhao & Bilen 2023) with fresh random networks; NCFM with characteristic functions of trained ones; IDM (Zhao et
al. 2023) and DANCE (Zhang et al. 2024) with the images' cross-entropy under them, DANCE between their first and last
weights.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from ims3core.axes.refinements import Matching, Needed, Start, check_finite, pixels_only
from ims3core.base.schema import Count, Index, NonNegative, Positive
from ims3core.students.plans import PoolNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.optim import Optimizer

PIXELS = 2**20  # of all images in one call of the network: many small classes together, large ones one by one
BATCH = 64  # images that the VAE is given at once, and that networks are trained on in a step
MOMENTUM = 0.5  # of SGD on pixels, as in DM's own code
MOVED = 2**24  # values of a full-size feature map of the VAE, of images through which gradients go to latents at once
Value = TypeVar("Value")


class DistributionMatching(Matching):
    """The images move against the features of a network, another one at each iteration."""

    iterations: dict[Count, Count] = Field(
        description="steps by IPC; an IPC in between takes those of the next smaller one"
    )
    optimiser: Literal["adam", "sgd"] = Field(description="of pixels or latents; sgd with momentum 0.5 (DM) of pixels")
    lr: Positive = Field(
        description="learning rate: of Adam in units of [0, 1] or of latents; of SGD in those of normalised pixels "
        "(DM: 1)"
    )
    networks: Index = Field(
        description="0: a fresh random network at each step (DM); else so many, trained on real images, which take "
        "turns and are the same for all sets of a row"
    )
    train_steps: dict[Count, Annotated[list[Index], Field(min_length=2, max_length=2)]] = Field(
        description="by IPC: fewest and most steps that trained networks have had"
    )
    statistic: dict[Count, Literal["mean", "characteristic"]] = Field(
        description="by IPC, mean or characteristic functions (NCFM): one image can have the mean of the real features "
        "but not their distribution, several can"
    )
    directions: Count = Field(description="random directions of characteristic functions")
    interpolate: bool = Field(
        description="trained networks stand, each time, at a random point between their first and last weights"
    )
    cross_entropy: NonNegative = Field(
        description="weight of the images' mean cross-entropy under a trained network, added class by class"
    )
    space: Literal["pixels", "latents"] = Field(
        description="what moves: pixels, or the latents behind them, which keeps to what the VAE can draw"
    )

    @model_validator(mode="after")
    def _trained_networks(self) -> DistributionMatching:
        for name in ("interpolate", "cross_entropy"):
            if getattr(self, name) and not self.networks:
                raise ValueError(
                    f"{name}: found {getattr(self, name)} beside networks: 0, which are random; wanted trained ones, "
                    "for example networks: 12"
                )
        return self

    @model_validator(mode="after")
    def _mosaics_are_pixels(self) -> DistributionMatching:
        if self.space == "latents":
            pixels_only(self.factor, "factor: space: latents moves latents")
        return self

    @model_validator(mode="after")
    def _sgd_moves_pixels(self) -> DistributionMatching:
        if self.optimiser == "sgd" and self.space == "latents":
            raise ValueError("optimiser: found sgd beside space: latents; wanted adam, or space: pixels")
        return self

    @model_validator(mode="after")
    def _tables_are_filled(self) -> DistributionMatching:
        examples = {"iterations": "{1: 300}", "statistic": "{1: mean}", "train_steps": "{1: [10, 140]}"}
        for name, example in examples.items():
            if not getattr(self, name):
                raise ValueError(f"{name}: found none, wanted one for IPC 1 at least, for example {example}")
        return self

    def needs(self) -> tuple[Needed, ...]:
        return ("generator",) if self.space == "latents" else ()

    def steps_for(self, ipc: int) -> tuple[int, int]:
        """The fewest and the most training steps of networks for sets of ``ipc`` images per class."""
        low, high = by_ipc(self.train_steps, ipc)
        return low, high

    def shared_networks(self, sets: list[int]) -> list[PoolNetwork]:
        spans = dict.fromkeys(self.steps_for(ipc) for ipc in sets)
        return [PoolNetwork(*span, number) for span in spans for number in range(self.networks)]

    def train(self, start: Start, which: PoolNetwork) -> dict[str, Tensor]:
        from ims3core.students.network_pool import trained_weights

        task = start.real_task(self.network, self.options)
        return trained_weights(task, which, self.networks, start.row_seed, start.progress)

    def passes(self, sets: list[int], classes: int) -> dict[str, float]:
        """Images that are moved go forward and back, through frozen weights; those networks are trained on thrice."""
        rounds = [(by_ipc(self.iterations, ipc), ipc) for ipc in sets]
        compared = sum(count * classes * (self.real_batch + 2 * ipc * self.tiles) for count, ipc in rounds)
        trained = sum(sum(steps) / 2 for steps in {self.steps_for(ipc) for ipc in sets})  # once for all sets of a row
        passes = {self.network: compared + 3 * self.networks * BATCH * trained}
        if self.space == "latents":
            passes["decoder"] = 2.0 * sum(count * classes * ipc for count, ipc in rounds)
        return passes

    def together(self, ipc: int, side: int) -> int:
        """How many classes go through the network in one call."""
        return max(1, PIXELS // ((self.real_batch + ipc * self.tiles) * side**2))

    def in_flight(self, ipc: int, classes: int, side: int) -> dict[str, tuple[int, int]]:
        """The classes of one call: their images, and real ones without gradients."""
        count = min(classes, self.together(ipc, side))
        images = {self.network: (count * ipc * self.tiles, count * self.real_batch)}
        return images | ({"decoder": (count * ipc, 0)} if self.space == "latents" else {})

    def refine(self, start: Start) -> Tensor:
        import torch

        from ims3core.base.seeds import derive_seed

        canvas = _Pixels(start, self.factor) if self.space == "pixels" else _Latents(start)
        matching = _Matching(self, start, canvas)
        descent = self._descent(canvas, start)
        start.shown(canvas.finished)
        for iteration in start.progress(range(by_ipc(self.iterations, start.ipc))):
            seed = derive_seed(start.seed, "iteration", iteration)
            features, head = matching.networks(iteration, seed)
            directions = matching.directions(head.in_features, seed)
            descent.zero_grad()
            losses = []
            for group in matching.groups:
                distances = matching.losses(group, features, head, directions, seed)
                torch.stack(distances).sum().backward()
                losses += [distance.detach() for distance in distances]
            check_finite(torch.stack(losses), iteration, start.names)
            descent.step()
            canvas.project()
        return canvas.finished()

    def _descent(self, canvas: _Pixels | _Latents, start: Start) -> Optimizer:
        import torch

        if self.optimiser == "adam":
            return torch.optim.Adam([canvas.values], lr=self.lr)
        # A step on (x - mean) / std is one on x with the gradient times std^2.
        variance = torch.tensor(start.statistics[1], device=canvas.values.device).square()[:, None, None]
        canvas.values.register_hook(lambda gradient: gradient * variance)
        return torch.optim.SGD([canvas.values], lr=self.lr, momentum=MOMENTUM)


class _Matching:
    """What stays the same over the iterations of one set."""

    def __init__(self, spec: DistributionMatching, start: Start, canvas: _Pixels | _Latents) -> None:
        from ims3core.students import pixels
        from ims3core.students.network_pool import NetworkPool

        self.spec, self.machine, self.canvas = spec, start.machine, canvas
        self.task, self.rows = start.real_task(spec.network, spec.options), start.rows()
        self.real = pixels.RealBatches(start.real, start.classes, start.machine.device)
        self.statistic = by_ipc(spec.statistic, start.ipc)
        side, rounds = start.side, by_ipc(spec.iterations, start.ipc)
        compared = rounds * start.classes * (spec.real_batch + 2 * start.ipc * spec.tiles)
        self.networks = NetworkPool(
            self.task, count=spec.networks, steps=spec.steps_for(start.ipc), interpolate=spec.interpolate,
            compiled=pixels.compiling_pays(start.machine, compared, side), seed=start.row_seed, shared=start.shared,
            weights=lambda which: start.kept(which, partial(spec.train, start, which)),
        )  # fmt: skip
        together = spec.together(start.ipc, side)
        classes = range(start.classes)
        self.groups = [classes[first : first + together] for first in classes[::together]]

    def directions(self, dim: int, seed: int) -> Tensor | None:
        """The random directions (dim, number) of this iteration; None where means are compared."""
        import torch

        from ims3core.base.seeds import generator

        if self.statistic == "mean":
            return None
        directions = torch.randn(dim, self.spec.directions, generator=generator(seed, "directions"))
        return directions.to(self.machine.device)

    def losses(
        self, group: range, features: nn.Module, head: nn.Module, directions: Tensor | None, seed: int
    ) -> list[Tensor]:
        """The loss of every class of ``group``, computed in one call of the network.

        One transformation for all of a class: an image that stands for many is compared under the same view.
        """
        import torch

        from ims3core.base.seeds import derive_seed

        views = [derive_seed(seed, "augment", c) for c in group]
        with self.machine.autocast():
            rows = [self.rows[c] for c in group]
            chosen = self._features(features, self.canvas.images, rows, views, self.canvas.moved, self.spec.tiles)
            batches = [self.real(c, self.spec.real_batch, seed) for c in group]
            real = self._features(features, lambda images: images, batches, views, self.canvas.compared)
        losses = [distance(one, other, directions) for one, other in zip(real, chosen, strict=True)]
        if self.spec.cross_entropy:
            for n, c in enumerate(group):
                logits = head(chosen[n])
                labels = torch.full((len(logits),), c, device=self.machine.device)
                entropy = torch.nn.functional.cross_entropy(logits, labels)
                losses[n] = losses[n] + self.spec.cross_entropy * entropy
        return losses

    def _features(
        self, network: nn.Module, images: Callable[[Tensor], Tensor], parts: list[Tensor], views: list[int],
        at_once: int | None, each: int = 1,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The features (n, dim) of each class, under a view of its own.

        Args:
            images: what to see (n, channels, side, side) of a part of a class, in [0, 1].
            parts: of each class what ``images`` makes them of, ``each`` of every item.
            at_once: images in one call; None: all. If they are more, each class goes in slices, which are computed
                again in the backward pass: memory holds what one of them leaves for it.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        from ims3core.students.warps import Alike

        def seen(part: Tensor, views: Alike) -> Tensor:
            features: Tensor = network(self.task.normalise(self.task.augmentation(images(part), views))).float()
            return features

        sizes = [len(part) * each for part in parts]
        if at_once is None or sum(sizes) <= at_once:
            return torch.split(seen(torch.cat(parts), Alike(views, sizes)), sizes)
        return tuple(
            torch.cat([
                checkpoint(seen, some, Alike([view], [len(some)]), use_reentrant=False, preserve_rng_state=False)
                for some in part.tensor_split(-(-len(part) // at_once))
            ])
            for part, view in zip(parts, views, strict=True)
        )  # fmt: skip


class _Pixels:
    """The images themselves, in [0, 1].

    Attributes:
        moved, compared: images of the set, and real ones, in one call of the network; None: all of some classes.
    """

    moved: int | None = None
    compared: int | None = None

    def __init__(self, start: Start, factor: int) -> None:
        from ims3core.data.formation import formed
        from ims3core.students import pixels

        self.form = partial(formed, factor=factor)
        self.values = pixels.as_parameter(start.images, start.machine.device)

    def images(self, rows: Tensor) -> Tensor:
        """In [0, 1], as they are seen; gradients pass."""
        return self.form(self.values[rows])

    def project(self) -> None:
        """Back into the range of images, after a step."""
        self.values.data.clamp_(0, 1)

    def finished(self) -> Tensor:
        """All images, uint8."""
        from ims3core.students import pixels

        return pixels.as_images(self.values)


class _Latents:
    """Scaled latents, of which the VAE draws the images; large images in slices, each with its pass of the VAE."""

    def __init__(self, start: Start) -> None:
        import torch

        from ims3core.diffusion.autoencoder import images_at_once

        self.vae = start.autoencoder()
        self.vae.requires_grad_(False)
        self.values = torch.nn.Parameter(start.encoded(self.vae, BATCH).clone().to(start.machine.device))
        side = start.side
        self.moved, self.compared = images_at_once(self.vae, side, MOVED), max(1, PIXELS // side**2)

    def images(self, rows: Tensor) -> Tensor:
        """In [0, 1]; gradients pass through the decoder."""
        images: Tensor = self.vae.decode(self.values[rows] / self.vae.config.scaling_factor).sample
        return images.float().add(1).div(2).clamp(0, 1)

    def project(self) -> None:
        """Latents have no range."""

    def finished(self) -> Tensor:
        import torch

        from ims3core.data import batches
        from ims3core.diffusion.autoencoder import decode

        return torch.cat([decode(self.vae, part) for part in batches(self.values.detach(), BATCH)])


def by_ipc(table: dict[int, Value], ipc: int) -> Value:
    """The entry for an IPC: that of the largest IPC in the table that is not larger, else of the smallest."""
    fitting = [key for key in sorted(table) if key <= ipc]
    return table[fitting[-1] if fitting else min(table)]


def distance(real: Tensor, chosen: Tensor, directions: Tensor | None) -> Tensor:
    """How far two samples of features (n, dim) and (m, dim) are apart.

    Without ``directions``: squared distance of their means (DM). With (dim, number) of them, normally distributed:
    mean squared difference of their empirical characteristic functions along these, scaled by the spread of ``real``
    (NCFM without learned sampler).
    """
    if directions is None:
        return (real.mean(0) - chosen.mean(0)).square().sum()
    import torch

    scale = real.std(0).mean().clamp_min(1e-6) * real.shape[1] ** 0.5
    phases = [sample @ directions / scale for sample in (real, chosen)]
    cosine, sine = ((part(phases[0]).mean(0) - part(phases[1]).mean(0)) for part in (torch.cos, torch.sin))
    return (cosine.square() + sine.square()).mean() * real.shape[1]
