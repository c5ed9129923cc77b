"""How a chosen set is optimised further."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, model_validator

from ims3core.base.schema import Count, Entry
from ims3core.errors import NumericsError
from ims3core.students.settings import OwnNetwork, own_options

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

    from ims3core.base.compute import Machine
    from ims3core.classifiers.teacher import Teacher
    from ims3core.data import ImageSet
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule
    from ims3core.students.network_pool import RealTask
    from ims3core.students.plans import PoolNetwork
    from ims3core.students.settings import Augment

    Generator = tuple[DiT, Schedule, AutoencoderKL]

    Tensors = dict[str, Tensor]

Needed = Literal["teacher", "generator"]


class Refinement(Entry):
    """An optimisation of the images of a distilled set."""

    factor: Annotated[int, Field(ge=1, le=8)] = Field(
        1,
        description="each image holds so many by so many smaller ones, which are seen enlarged (IDC: 2); 1: it is one",
    )

    @property
    def tiles(self) -> int:
        """The images that each stored one holds."""
        return self.factor**2

    @property
    def network_options(self) -> dict[str, int]:
        """Further arguments of the networks of our own that it looks through."""
        return {}

    def needs(self) -> tuple[Needed, ...]:
        """What it looks at beside the real images."""
        return ()

    def shared_networks(self, sets: list[int]) -> list[PoolNetwork]:
        """What sets of so many images per class look through together; each is trained once and kept."""
        return []

    def train(self, start: Start, which: PoolNetwork) -> Tensors:
        """The weights of one of :meth:`shared_networks`; of ``start`` only what all sets of the row have in common."""
        raise LookupError(f"{self.entry_name()} shares no networks")

    @abstractmethod
    def passes(self, sets: list[int], classes: int) -> dict[str, float]:
        """What sets of so many images per class cost together, for ``ims3 plan``.

        Images through each network, counted in forward passes, by the name of a student's network or as ``teacher``,
        ``generator``, ``decoder``.
        """

    def in_flight(self, ipc: int, classes: int, side: int) -> dict[str, tuple[int, int]]:
        """How many images of ``side`` px are in memory at once, for ``ims3 plan``, by the names of :meth:`passes`.

        The first number is of images that gradients go through, the second of those without. As it stands: one image
        of every class through every network.
        """
        return dict.fromkeys(self.passes([ipc], classes), (classes, 0))

    @abstractmethod
    def refine(self, start: Start) -> Tensor:
        """New uint8 images (N, channels, side, side) in the order of the set; random only by ``start.seed``.

        With a ``factor`` the images are mosaics from the start, and :func:`ims3core.data.formation.formed` is what they
        are seen as.

        Raises:
            NumericsError: it diverged; the set it started from is kept.
        """


class Matching(Refinement):
    """A refinement that compares the set with real images in what a network of our own makes of them."""

    network: OwnNetwork = Field(description="convnet | resnetap10 | resnet10..101 (DM: convnet, IDC: resnetap10)")
    options: dict[str, int] = Field(
        default_factory=dict, description="further arguments of convnet: width, padding, as students may have them"
    )
    real_batch: Count = Field(description="real images per class and step (DM: 256, IDC: 64)")

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        own_options(self.network, self.options)
        return self

    @property
    def network_options(self) -> dict[str, int]:
        return self.options


def not_kept(_: PoolNetwork, train: Callable[[], Tensors]) -> Tensors:
    """Trains a network each time."""
    return train()


def unseen(_: Callable[[], Tensor]) -> None:
    """Nobody looks on."""


def _no_teacher() -> Teacher:
    raise LookupError("the teacher was not read: the refinement has to name it in needs()")


def _no_generator() -> NoReturn:
    raise LookupError("the generator was not read: the refinement has to name it in needs()")


@dataclass(frozen=True)
class Start:
    """One drawn set and what a refinement may look at.

    Attributes:
        chosen: the set: uint8 images and class indices.
        latents: (N, ...) scaled latents of the images, where they were drawn; None for real images and mosaics.
        real: the real training images.
        statistics: mean and std per channel of the real images in [0, 1].
        augment: the section ``augment`` as the row wants it.
        seed: of this set.
        row_seed: of all sets of the row.
        shared: what the sets of a row have in memory together; the first one fills it.
        kept: the weights of a shared network, which are trained by the function unless they are there.
        teacher: opens the teacher, if the refinement needs it.
        generator: opens network, schedule and autoencoder, if the refinement needs it.
        autoencoder: opens the last of these alone.
        labels: generator label of every class.
        names: of the classes.
        progress: wraps the iterations.
        shown: called before the first iteration by what moves a whole set together, with a function that returns the
            images as they are by then.
    """

    chosen: ImageSet
    latents: Tensor | None
    real: ImageSet
    statistics: tuple[list[float], list[float]]
    augment: Augment
    seed: int
    machine: Machine
    labels: Tensor
    teacher: Callable[[], Teacher] = _no_teacher
    generator: Callable[[], Generator] = _no_generator
    autoencoder: Callable[[], AutoencoderKL] = _no_generator
    names: tuple[str, ...] = ()
    row_seed: int = 0
    shared: dict[Any, Any] = field(default_factory=dict)
    kept: Callable[[PoolNetwork, Callable[[], Tensors]], Tensors] = not_kept
    progress: Callable[[Iterable[int]], Iterator[int]] = iter
    shown: Callable[[Callable[[], Tensor]], object] = unseen

    @property
    def images(self) -> Tensor:
        """The images of the set, in memory."""
        return self.chosen.images[:]

    @property
    def side(self) -> int:
        """Of the images, in pixels; loads none of them."""
        return int(self.chosen.images.shape[-1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.numel())

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.chosen.images) // self.classes

    def rows(self) -> list[Tensor]:
        """Per class the positions of its images in the set, on the machine."""
        classes = range(self.classes)
        return [(self.chosen.class_index == c).nonzero().flatten().to(self.machine.device) for c in classes]

    def real_task(self, network: str, options: Mapping[str, int] | None = None) -> RealTask:
        """The real images as what networks of one kind are trained on."""
        from ims3core.students.network_pool import RealTask

        return RealTask(
            network, self.real, self.classes, self.statistics, self.augment, self.machine, options or {}
        )  # fmt: skip

    def encoded(self, vae: AutoencoderKL, batch_size: int) -> Tensor:
        """Scaled latents of the set: those that it was drawn from, else its images through the encoder."""
        import torch

        from ims3core.data import batches
        from ims3core.diffusion.autoencoder import encode

        if self.latents is not None:
            return self.latents
        return torch.cat([encode(vae, part)[0] for part in batches(self.chosen.images, batch_size)])


def pixels_only(factor: int, why: str) -> int:
    """``factor``, which has to be 1 where no pixels are moved. Raises a ValueError, for pydantic."""
    if factor != 1:
        raise ValueError(f"{why}, which cannot be mosaics; found {factor}, wanted 1")
    return factor


def check_finite(loss: Tensor, iteration: int, names: tuple[str, ...] = ()) -> None:
    """Raises NumericsError if the loss of an iteration, or one of those of the classes (classes,), is not finite."""
    broken = ~loss.isfinite()
    if broken.any():
        first = int(broken.nonzero()[0]) if loss.ndim else 0
        where = f" of class {names[first] if names else first}" if loss.ndim else ""
        raise NumericsError(f"loss{where} is {loss[broken][0].item()} at iteration {iteration}; lower lr")
