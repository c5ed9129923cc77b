"""Which candidates are kept: ``ipc`` of each class and draw.

An entry of this axis has

``Section``
    Its keys.
``DETERMINISTIC``
    Whether the choice ignores seed and draw, so that all drawn sets from real images are one.
``SOURCES``
    The sources whose pools it chooses from, or None for any.
``need(ipc, **section)``
    How many candidates of each class and draw it looks at; None: all there are.
``select(candidates, ipc, seed, draw, **section)``
    A :class:`Choice` among :class:`Candidates`. Random only by generators from :func:`ims3core.base.seeds.generator`
    of (seed, a purpose, draw, ...).

One that asks the teacher also has ``JUDGED = True``; its rows say ``reads: data/teacher``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ims3core.shell.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

ENTRY = ("Section", "DETERMINISTIC", "SOURCES", "need", "select")


@dataclass(frozen=True)
class Candidates:
    """What a selection sees of one draw.

    Attributes:
        features: per class (n, dim), unit norm, one row per candidate.
        names: of the classes, for messages.
        real_centroids: (classes, dim), unit norm, the reference of Eq. 10.
        real: per class the features (m, dim) of the real training images, for selections that want more than centroids.
        images: opens the uint8 images (n, channels, side, side) of one class's candidates.
        judge: the teacher's logits (n, classes) of such images; only for ``JUDGED`` selections.
    """

    features: list[Tensor]
    names: list[str]
    real_centroids: Tensor | None = None
    real: Callable[[], list[Tensor]] | None = None
    images: Callable[[int], Tensor] | None = None
    judge: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Choice:
    """What a selection keeps.

    ``indices`` holds per class the (ipc,) positions, long, within that class's candidates of this draw; ``groups``
    the group they make up, or None where groups play no part; ``report`` JSON-able scalars about the choice. With
    ``tiles`` (a square number), so many consecutive candidates make one image, their top left corners as its tiles.
    """

    indices: list[Tensor]
    groups: list[int | None]
    report: dict[str, Any] = field(default_factory=dict)
    tiles: int = 1


def ungrouped(indices: list[Tensor]) -> Choice:
    """A choice in which groups play no part."""
    return Choice(indices, [None] * len(indices))


def check_count(found: int, wanted: int, *, name: str, reason: str) -> None:
    """Raises DataError if class ``name`` has fewer than ``wanted`` images."""
    if found < wanted:
        raise DataError(f"class {name}: found {found} images, wanted at least {wanted} ({reason})")
