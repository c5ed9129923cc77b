"""What a sampler knows of the real latents beside the class label."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from ims3core.base.schema import Entry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.sampling import Denoiser

Provided = Literal["nothing", "targets", "starts"]


class Guide(Entry):
    """What is prepared once per class, and given to the sampler per class, IPC and draw.

    Attributes:
        provides: ``targets``, clean latents to steer to; ``starts``, latents at some noise level to go on from.
        per_ipc: what it gives depends on the number of images per class.
        needs_network: preparing asks the adapted generator.
    """

    provides: ClassVar[Provided]
    per_ipc: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, latents: Tensor, denoiser: Denoiser | None, label: int) -> dict[str, Tensor]:
        """What is kept of one class: named tensors, from its real latents (n, channels, side, side).

        Args:
            denoiser: the adapted generator; None unless ``needs_network``.
            label: the generator label of the class.
        """

    @abstractmethod
    def start(self, prepared: dict[str, Tensor], ipc: int, generator: torch.Generator) -> Tensor | None:
        """``ipc`` latents (ipc, channels, side, side) of one class and draw, from what was prepared."""

    def network_calls(self, images: int) -> int:
        """Calls of the generator to prepare a class of so many ``images``; guided calls count two."""
        return 0
