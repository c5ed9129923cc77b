"""Which candidates are kept: ``ipc`` of each class and draw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ims3core.base.schema import Entry
from ims3core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Selection(Entry):
    """A choice of candidates.

    Attributes:
        deterministic: the choice ignores seed and draw, so that all drawn sets from real images are one.
        sources: the sources whose pools it chooses from; None: any.
        needs_teacher: asks the teacher (``Candidates.teacher``).
        needs_real_features: compares with the features of all real images (``Candidates.real``).
    """

    deterministic: ClassVar[bool] = False
    sources: ClassVar[tuple[str, ...] | None] = None
    needs_teacher: ClassVar[bool] = False
    needs_real_features: ClassVar[bool] = False

    def candidates_needed(self, ipc: int) -> int | None:
        """How many candidates of each class and draw it looks at; None: all there are."""
        return None

    def flops(self, *, real: int, candidates: int, dim: int) -> float:
        """FLOPs of one set beyond a few seconds' worth, for ``ims3 plan``.

        Args:
            real, candidates: features of all classes that it sees, of length ``dim``.
        """
        return 0.0

    @abstractmethod
    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        """``ipc`` candidates of each class; random only by ``ims3core.base.seeds.generator(seed, purpose, draw, ...)``.

        Raises:
            DataError: a class has too few candidates.
        """


def _no_features() -> list[Tensor]:
    raise LookupError("the real features were not read: the selection has to set needs_real_features")


def _no_teacher(images: Tensor) -> Tensor:
    raise LookupError("the teacher was not read: the selection has to set needs_teacher")


@dataclass(frozen=True)
class Candidates:
    """What a selection sees of one draw.

    Attributes:
        features: per class (n, dim), unit norm, one row per candidate.
        names: of the classes, for messages.
        real_centroids: (classes, dim), unit norm, the reference of Eq. 10.
        images: opens the uint8 images (n, channels, side, side) of one class's candidates.
        real: per class the features (m, dim) of the real training images; only with ``needs_real_features``.
        teacher: the teacher's logits (n, classes) of such images; only with ``needs_teacher``.
    """

    features: list[Tensor]
    names: list[str]
    real_centroids: Tensor
    images: Callable[[int], Tensor]
    real: Callable[[], list[Tensor]] = _no_features
    teacher: Callable[[Tensor], Tensor] = _no_teacher

    def require(self, count: int, reason: str) -> None:
        """Raises DataError unless every class has ``count`` candidates."""
        for features, name in zip(self.features, self.names, strict=True):
            if len(features) < count:
                raise DataError(f"class {name}: found {len(features)} images, wanted at least {count} ({reason})")


@dataclass(frozen=True)
class Choice:
    """What a selection keeps.

    Attributes:
        indices: per class the (ipc,) positions, long, within that class's candidates of this draw.
        groups: per class the group they make up, or None where groups play no part.
        report: JSON-able scalars about the choice.
        tiles: a square number; so many consecutive candidates make one image, their top left corners as its tiles.
    """

    indices: list[Tensor]
    groups: list[int | None]
    report: dict[str, Any] = field(default_factory=dict)
    tiles: int = 1


def ungrouped(indices: list[Tensor], *, report: dict[str, Any] | None = None, tiles: int = 1) -> Choice:
    """A choice in which groups play no part."""
    return Choice(indices, [None] * len(indices), report or {}, tiles)
