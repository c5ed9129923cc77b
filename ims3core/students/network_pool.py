"""Networks through which refinements look at images: fresh random ones, or some that were trained briefly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ims3core.base.compute import Machine
from ims3core.base.seeds import derive_seed, generator
from ims3core.data import ImageSet, unit
from ims3core.errors import ParameterError
from ims3core.students import pixels
from ims3core.students.networks import FeatureNetwork, build_student
from ims3core.students.optimisers import Optimiser
from ims3core.students.plans import OptimiserSpec, PoolNetwork
from ims3core.students.settings import Augment
from ims3core.students.warps import Augmentation, Statistics

Progress = Callable[[Iterable[int]], Iterator[int]]
BATCH = 64  # images that networks are trained on in a step


@dataclass(frozen=True)
class RealTask:
    """The classification of the real images by networks of one kind.

    Attributes:
        network: name of a network of our own.
        options: further arguments of it, as in ``students``.
        statistics: mean and std per channel of the real images in [0, 1].
    """

    network: str
    real: ImageSet
    classes: int
    statistics: Statistics
    augment: Augment
    machine: Machine
    options: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def normalise(self) -> pixels.Normaliser:
        """Images in [0, 1] as the networks take them."""
        return pixels.Normaliser(*self.statistics).to(self.machine.device)

    @cached_property
    def augmentation(self) -> Augmentation:
        """Of images in [0, 1]; gradients pass through it."""
        return pixels.differentiable_augmentation(self.augment, self.real.images, self.statistics)

    def build(self, seed: int) -> FeatureNetwork:
        """A freshly initialised network on the machine.

        Raises:
            ParameterError: the network is one of timm's.
        """
        shape = self.real.images.shape
        network = build_student(
            self.network, classes=self.classes, channels=shape[1], side=shape[-1], seed=seed, options=dict(self.options)
        )
        if not isinstance(network, FeatureNetwork):
            raise ParameterError(f"network: found {self.network!r}, wanted one of our own, whose features are compared")
        return network.to(self.machine.device)

    def trained(
        self, steps: int, *, lr: float, seed: int, compiled: bool = False, progress: Progress = iter
    ) -> FeatureNetwork:
        """A network after ``steps`` SGD steps on the real images, compiled if asked; 0 steps: as initialised."""
        network = self.build(derive_seed(seed, "network"))
        self.machine.for_training(network, parts=[network], pays=compiled, convolves=True)
        descend, count = Optimiser(network, OptimiserSpec(lr)), len(self.real.images)
        for step in progress(range(steps)):
            rows = torch.randint(count, (min(BATCH, count),), generator=generator(seed, "rows", step))
            self.backward(network, rows, derive_seed(seed, "augment", step))
            descend(lr)
        return network

    def backward(self, network: nn.Module, rows: Tensor, seed: int) -> None:
        """Adds the gradient of the mean cross-entropy of the real images ``rows``, augmented by ``seed``."""
        device = self.machine.device
        batch = self.augmentation(unit(self.real.images[rows].to(device)), seed)
        with self.machine.autocast():
            logits = network(self.normalise(batch)).float()
            loss = nn.functional.cross_entropy(logits, self.real.class_index[rows].to(device))
        loss.backward()


class Features(nn.Module):
    """The features of a network as a network of its own, which can be compiled."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) features of images ``x`` (B, C, H, W)."""
        return self.network.features(x)


def trained_weights(
    task: RealTask, which: PoolNetwork, count: int, seed: int, progress: Progress = iter
) -> dict[str, Tensor]:
    """The weights of one of ``count`` networks, whose numbers of steps are spread evenly from fewest to most."""
    low, high = which.fewest, which.most
    lengths = [low + (high - low) * n // max(1, count - 1) for n in range(count)]
    pays = pixels.compiling_pays(task.machine, sum(lengths) * BATCH, task.real.images.shape[-1])
    network = task.trained(
        lengths[which.number], lr=0.02, seed=_seed(seed, which.number), compiled=pays, progress=progress
    )
    return network.state_dict()


def _seed(seed: int, number: int) -> int:
    """Of one of the trained networks of a pool."""
    return derive_seed(seed, "trained", number)


class NetworkPool:
    """Networks that take turns: another one at each iteration of a refinement.

    Args:
        count: 0: a fresh random network at each iteration; else so many trained ones in turn.
        steps: the fewest and the most steps of trained networks, which are spread evenly between.
        interpolate: a trained network stands, each time, at a random point between its first and its last weights.
        compiled: whether the features are compiled.
        seed: of the trained networks.
        shared: what pools of one refinement have in common, such as trained networks; the first one fills it.
        weights: of the trained networks.
    """

    def __init__(
        self, task: RealTask, *, count: int, steps: tuple[int, int], interpolate: bool, compiled: bool, seed: int,
        shared: dict[Any, Any], weights: Callable[[PoolNetwork], dict[str, Tensor]],
    ) -> None:  # fmt: skip
        self.task, self.compiled = task, compiled
        if steps not in shared:
            last = [self._first(n, seed) for n in range(count)]
            first = [self._first(n, seed) for n in range(count)] if interpolate else []
            for n, network in enumerate(last):
                network.load_state_dict(weights(PoolNetwork(*steps, n)))
            shared[steps] = first, last
        self.first: list[FeatureNetwork]
        self.last: list[FeatureNetwork]
        self.first, self.last = shared[steps]
        if (steps, compiled) not in shared:  # compiling may pay for sets of another size, or not
            networks = [task.build(0)] if interpolate else self.last
            shared[steps, compiled] = [(self._features(network), network.head) for network in networks]
        self.views: list[tuple[nn.Module, nn.Linear]] = shared[steps, compiled]

    def __call__(self, iteration: int, seed: int) -> tuple[nn.Module, nn.Linear]:
        """The network of this iteration: what gives features (B, dim), and the layer that gives logits of them."""
        if not self.views:
            network = self.task.build(seed)
            return self._features(network), network.head
        features, head = self.views[iteration % len(self.views)]
        if self.first:
            self._interpolate(features, iteration, seed)
        return features, head

    def _interpolate(self, network: nn.Module, iteration: int, seed: int) -> None:
        """Puts ``network`` between the first and the last weights of the one whose turn it is."""
        share = float(torch.rand((), generator=generator(seed, "interpolate")))
        first, last = (networks[iteration % len(networks)].parameters() for networks in (self.first, self.last))
        with torch.no_grad():
            for weight, one, other in zip(network.parameters(), first, last, strict=True):
                weight.copy_(one.lerp(other, share))

    def _features(self, network: FeatureNetwork) -> nn.Module:
        features = Features(network.requires_grad_(False))
        return self.task.machine.for_training(features, parts=[features], pays=self.compiled, convolves=True)

    def _first(self, number: int, seed: int) -> FeatureNetwork:
        """One of the networks as it is initialised."""
        return self.task.build(derive_seed(_seed(seed, number), "network"))
