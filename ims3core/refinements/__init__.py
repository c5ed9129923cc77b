"""How a chosen set is optimised further.

An entry of this axis has

``Section``
    Its keys.
``READS``
    The artefact it needs beside the real images, which its row names too (``reads``): ``data/real/train`` for none,
    ``data/teacher`` or ``data/generator``; or a function of its values that says so.
``passes(sets, classes, **section)``
    What sets of so many images per class cost together, for `ims3 plan`: images through each network, counted in
    forward passes, by the name of a student's network or as ``teacher``, ``generator``, ``decoder``.
``refine(start, **section)``
    New uint8 images (N, channels, side, side) in the order of the set, from a :class:`Start`. Random only by
    ``start.seed``, which is that of the set. Raises NumericsError when it diverges: the set it started from is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ims3core.shell.errors import NumericsError

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.base.compute import Machine
    from ims3core.data import ImageSet

ENTRY = ("Section", "READS", "passes", "refine")


@dataclass(frozen=True)
class Start:
    """One drawn set and what a refinement may look at.

    Attributes:
        chosen: the set: uint8 images and class indices.
        latents: (N, ...) scaled latents of the images, where they were drawn; None for real images.
        real: the real training images.
        statistics: mean and std per channel of the real images in [0, 1].
        augment: the values of the section ``augment``.
        seed: of this set.
        row_seed: of all sets of the row.
        shared: what the sets of a row have in common, such as trained networks; the first one fills it.
        teacher: opens the teacher, if the row reads it.
        generator: opens (network, schedule, autoencoder), if the row reads it.
        labels: generator label of every class.
        names: of the classes.
        progress: wraps the iterations.
    """

    chosen: ImageSet
    latents: Tensor | None
    real: ImageSet
    statistics: tuple[list[float], list[float]]
    augment: dict[str, Any]
    seed: int
    machine: Machine
    teacher: Callable[[], Any]
    generator: Callable[[], Any]
    labels: Tensor
    names: tuple[str, ...] = ()
    row_seed: int = 0
    shared: dict[Any, Any] = field(default_factory=dict)
    progress: Callable[[Iterable], Iterator] = iter


def check_finite(loss: Tensor, iteration: int, names: tuple[str, ...] = ()) -> None:
    """Raises NumericsError if the loss of an iteration, or one of those of the classes (classes,), is not finite."""
    broken = ~loss.isfinite()
    if broken.any():
        first = int(broken.nonzero()[0]) if loss.ndim else 0
        where = f" of class {names[first] if names else first}" if loss.ndim else ""
        raise NumericsError(f"loss{where} is {loss[broken][0].item()} at iteration {iteration}; lower lr")
