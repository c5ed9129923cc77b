"""Images whose features match those of real images, class by class.

DM (Zhao & Bilen 2023) with fresh random networks; NCFM with characteristic functions of trained ones; IDM (Zhao et
al. 2023) and DANCE (Zhang et al. 2024) with the images' cross-entropy under them, DANCE between their first and last
weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from ims3core.params import schema
from ims3core.refinements import Start, check_finite

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from diffusers import AutoencoderKL
    from torch import Tensor

    from ims3core.base.compute import Machine

PIXELS = 2**20  # of all images in one call of the network: many small classes together, large ones one by one
BATCH = 64  # images that networks are trained on in a step, and that the VAE encodes or decodes at once


def READS(values: dict) -> str:
    """The generator draws latents; pixels need nothing beside the real images."""
    return "data/generator" if values["space"] == "latents" else "data/real/train"


class Section(schema.Section):
    iterations: dict[schema.Count, schema.Count]
    lr: schema.Positive
    real_batch: schema.Count
    network: str
    networks: schema.Index
    train_steps: dict[schema.Count, Annotated[list[schema.Index], Field(min_length=2, max_length=2)]]
    statistic: dict[schema.Count, Literal["mean", "characteristic"]]
    directions: schema.Count
    interpolate: bool
    cross_entropy: schema.NonNegative
    space: Literal["pixels", "latents"]

    @model_validator(mode="after")
    def _of_trained_networks(self) -> Section:
        for name in ("interpolate", "cross_entropy"):
            if getattr(self, name) and not self.networks:
                raise ValueError(
                    f"{name}: found {getattr(self, name)} beside networks: 0, which are random; wanted trained ones, "
                    "for example networks: 12"
                )
        return self

    @model_validator(mode="after")
    def _some(self) -> Section:
        examples = {"iterations": "{1: 300}", "statistic": "{1: mean}", "train_steps": "{1: [10, 140]}"}
        for name, example in examples.items():
            if not getattr(self, name):
                raise ValueError(f"{name}: found none, wanted one for IPC 1 at least, for example {example}")
        return self


def by_ipc(table: dict[int, Any], ipc: int) -> Any:
    """The entry for an IPC: that of the largest IPC in the table that is not larger, else of the smallest."""
    fitting = [known for known in sorted(table) if known <= ipc]
    return table[fitting[-1] if fitting else min(table)]


def passes(
    sets: list[int], classes: int, *, iterations: dict[int, int], real_batch: int, network: str, networks: int,
    train_steps: dict[int, list[int]], space: str, **other: Any,
) -> dict[str, float]:  # fmt: skip
    """Images that are moved go forward and back, through frozen weights; those that networks are trained on thrice."""
    steps = [(by_ipc(iterations, ipc), ipc) for ipc in sets]
    seen = sum(count * classes * (real_batch + 2 * ipc) for count, ipc in steps)
    trained = {tuple(by_ipc(train_steps, ipc)) for ipc in sets}  # once for all sets of a row
    found = {network: seen + 3 * networks * BATCH * sum(sum(steps) / 2 for steps in trained)}
    if space == "latents":
        found["decoder"] = 2.0 * sum(count * classes * ipc for count, ipc in steps)
    return found


def refine(
    start: Start, *, iterations: dict[int, int], lr: float, real_batch: int, network: str, networks: int,
    train_steps: dict[int, list[int]], statistic: dict[int, str], directions: int, interpolate: bool,
    cross_entropy: float, space: str,
) -> Tensor:  # fmt: skip
    """Adam on the images against the features of a network, another one at each iteration.

    Args:
        networks: 0: a fresh random one each time (DM); else so many, trained on real images for between the two
            ``train_steps`` of the IPC, which take turns and are the same for all sets of a row.
        statistic: by IPC. One image can have the mean of the real features but not their distribution, several can.
        interpolate: a trained network stands, each time, at a random point between its first and its last weights.
        cross_entropy: weight of the images' mean cross-entropy under a trained network, added class by class.
        space: what Adam moves, the ``pixels`` or the ``latents`` behind them, which keeps to what the VAE can draw.
    """
    import torch

    from ims3core.base.seeds import derive_seed, generator
    from ims3core.students import pixels
    from ims3core.students.augment import Alike

    chosen, device, autocast = start.chosen, start.machine.device, start.machine.autocast
    classes, side = int(start.labels.numel()), chosen.images.shape[-1]
    ipc = len(chosen.images) // classes
    compared_by = by_ipc(statistic, ipc)
    values, images_of, finished = _canvas(start, space)
    rows = [torch.nonzero(chosen.class_index == c).flatten().to(device) for c in range(classes)]
    real, normalise = pixels.RealBatches(start.real, classes, device), pixels.normaliser(start.statistics, device)
    augment = pixels.differentiable_augmentation(start.augment, chosen.images)
    rounds, steps = by_ipc(iterations, ipc), tuple(by_ipc(train_steps, ipc))
    pays = pixels.compiling_pays(start.machine, rounds * classes * (real_batch + 2 * ipc), side)
    judges = _Judges(start, network, networks, steps, interpolate=interpolate, pays=pays)

    def seen_by(judge: torch.nn.Module, shown: Tensor, sizes: list[int], views: list[int]) -> tuple[Tensor, ...]:
        """The features of classes that follow one another, each under a view of its own."""
        return judge(normalise(augment(shown, Alike(views, sizes)))).float().split(sizes)

    together = max(1, PIXELS // ((real_batch + ipc) * side**2))  # classes in one call
    adam = torch.optim.Adam([values], lr=lr)
    for iteration in start.progress(range(rounds)):
        seed = derive_seed(start.seed, "iteration", iteration)
        judge, head = judges(iteration, seed)
        adam.zero_grad()
        seen, drawn = [], None
        for first in range(0, classes, together):
            group = range(first, min(first + together, classes))
            # One transformation for all of a class: an image that stands for many is compared under the same view.
            views = [derive_seed(seed, "augment", c) for c in group]
            with autocast():
                moved = seen_by(
                    judge, images_of(torch.cat([rows[c] for c in group])), [len(rows[c]) for c in group], views
                )
                batches = [real(c, real_batch, seed) for c in group]
                fixed = seen_by(judge, torch.cat(batches), [len(own) for own in batches], views)
            if compared_by == "characteristic" and drawn is None:
                drawn = torch.randn(fixed[0].shape[1], directions, generator=generator(seed, "directions")).to(device)
            distances = [distance(one, other, drawn) for one, other in zip(fixed, moved, strict=True)]
            if cross_entropy:
                for n, c in enumerate(group):
                    answers = head(moved[n])
                    wanted = torch.full((len(answers),), c, device=device)
                    distances[n] = distances[n] + cross_entropy * torch.nn.functional.cross_entropy(answers, wanted)
            torch.stack(distances).sum().backward()
            seen += [one.detach() for one in distances]
        check_finite(torch.stack(seen), iteration, start.names)
        adam.step()
        if space == "pixels":
            values.data.clamp_(0, 1)
    return finished(values)


def _canvas(start: Start, space: str) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What Adam moves, the images in [0, 1] of some of its rows, and the uint8 images of all."""
    import torch

    from ims3core.students import pixels

    images = start.chosen.images
    if space == "pixels":
        values = pixels.as_parameter(images, start.machine.device)
        return values, lambda rows: values[rows], pixels.as_images

    from ims3core.diffusion import autoencoder

    vae = start.generator()[2].requires_grad_(False)
    latents = start.latents
    if latents is None:
        latents = torch.cat([autoencoder.encode(vae, part)[0] for part in images.split(BATCH)])
    values = torch.nn.Parameter(latents.clone().to(start.machine.device))
    return (
        values,
        lambda rows: _drawn(vae, values[rows]),
        lambda found: torch.cat([autoencoder.decode(vae, part) for part in found.detach().split(BATCH)]),
    )


def _drawn(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The images of scaled latents in [0, 1], on the way to which gradients pass."""
    return vae.decode(latents / vae.config.scaling_factor).sample.float().add(1).div(2).clamp(0, 1)


def _observer(machine: Machine, judge: torch.nn.Module, pays: bool) -> torch.nn.Module:
    """The features of a frozen network, compiled if that pays."""
    from ims3core.students import pixels

    observer = pixels.Features(judge.requires_grad_(False))
    return machine.trained(observer, parts=[observer], pays=pays, convolves=True)


class _Judges:
    """The networks whose features are compared; what the sets of a row have in common is made once."""

    def __init__(
        self, start: Start, network: str, count: int, steps: tuple[int, ...], *, interpolate: bool, pays: bool
    ) -> None:
        self.start, self.network, self.pays = start, network, pays
        shared = start.shared
        if steps not in shared:
            first = _trained(start, network, count, (0, 0)) if interpolate else []
            shared[steps] = first, _trained(start, network, count, steps)
        self.first, self.last = shared[steps]
        if (steps, pays) not in shared:  # sets of another size may be worth it or not
            shown = [self._build(0)] if interpolate else self.last
            shared[steps, pays] = [(_observer(start.machine, one, pays), one) for one in shown]
        self.shown = shared[steps, pays]

    def __call__(self, iteration: int, seed: int) -> tuple[torch.nn.Module, torch.nn.Module]:
        """What gives features (B, dim) at this iteration, and the layer that gives logits of them."""
        if not self.shown:
            fresh = self._build(seed)
            return _observer(self.start.machine, fresh, self.pays), fresh.head
        observer, shown = self.shown[iteration % len(self.shown)]
        if self.first:
            self._move(shown, iteration, seed)
        return observer, shown.head

    def _move(self, shown: torch.nn.Module, iteration: int, seed: int) -> None:
        """Puts the weights of ``shown`` between the first and the last ones of the network whose turn it is."""
        import torch

        from ims3core.base.seeds import generator

        place = float(torch.rand((), generator=generator(seed, "interpolate")))
        first, last = (networks[iteration % len(networks)].parameters() for networks in (self.first, self.last))
        with torch.no_grad():
            for own, one, other in zip(shown.parameters(), first, last, strict=True):
                own.copy_(one.lerp(other, place))

    def _build(self, seed: int) -> Any:
        from ims3core.students.networks import build_student

        shape, classes = self.start.chosen.images.shape, int(self.start.labels.numel())
        made = build_student(self.network, classes=classes, channels=shape[1], side=shape[-1], seed=seed)
        return made.to(self.start.machine.device)


def _trained(start: Start, network: str, count: int, train_steps: tuple[int, ...]) -> list[torch.nn.Module]:
    """``count`` networks after so many steps on the real images, evenly spaced from the first to the last number."""
    from ims3core.base.seeds import derive_seed
    from ims3core.students import pixels

    low, high = train_steps
    steps = [low + (high - low) * n // max(1, count - 1) for n in range(count)]
    pays = pixels.compiling_pays(start.machine, sum(steps) * BATCH, start.real.images.shape[-1])
    return [
        pixels.briefly_trained(
            network, start.real, classes=int(start.labels.numel()), steps=own, batch_size=BATCH, lr=0.02,
            seed=derive_seed(start.row_seed, "trained", n), augment=start.augment, statistics=start.statistics,
            machine=start.machine, pays=pays,
        )
        for n, own in enumerate(steps)
    ]  # fmt: skip


def distance(theirs: Tensor, ours: Tensor, directions: Tensor | None) -> Tensor:
    """How far two samples of features (n, dim) and (m, dim) are apart.

    Without ``directions``: squared distance of their means (DM). With (dim, number) of them, normally distributed:
    mean squared difference of their empirical characteristic functions along these, scaled by the spread of
    ``theirs`` (NCFM without learned sampler).
    """
    if directions is None:
        return (theirs.mean(0) - ours.mean(0)).square().sum()
    import torch

    scale = theirs.std(0).mean().clamp_min(1e-6) * theirs.shape[1] ** 0.5
    phases = [sample @ directions / scale for sample in (theirs, ours)]
    real, imaginary = ((part(phases[0]).mean(0) - part(phases[1]).mean(0)) for part in (torch.cos, torch.sin))
    return (real.square() + imaginary.square()).mean() * theirs.shape[1]
