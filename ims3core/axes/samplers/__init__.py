"""How latents are drawn from noise under the class label."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ims3core.base.schema import Entry, Index, Positive
from ims3core.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.axes.guides import Provided
    from ims3core.diffusion.sampling import Denoiser, NoiseStreams, Step


class Sampler(Entry):
    """A way from noise to clean latents.

    Attributes:
        accepts: what it makes use of; a guide fits if what it ``provides`` is among them.
    """

    accepts: ClassVar[tuple[Provided, ...]] = ("nothing",)

    @abstractmethod
    def sample(self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, guide_latents: Tensor | None) -> Tensor:
        """Clean latents (B, channels, side, side), float32, for generator labels ``labels`` (B,) int64.

        Args:
            noise: one generator per image, from which everything random comes.
            guide_latents: what the guide gives, (B, channels, side, side); None without one.
        """

    @abstractmethod
    def network_calls(self) -> int:
        """Network calls per image; one under classifier-free guidance counts two."""

    def check_channels(self, channels: int) -> None:  # noqa: B027
        """Raises ParameterError if it does not fit latents of so many ``channels``."""


class RespacedSampler(Sampler):
    """A sampler that walks along some of the trained timesteps under classifier-free guidance."""

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(description="respaced timesteps of 1000 (paper: 50)")
    guidance: Positive = Field(description="scale of classifier-free guidance; 1 is none (paper: 4)")
    guided_channels: Index = Field(description="latent channels that are guided; DiT guides 3 of its 4")

    def walked_steps(self) -> int:
        """How many of the ``steps`` are taken."""
        return self.steps

    def network_calls(self) -> int:
        return self.walked_steps() * (1 if self.guidance == 1 else 2)

    def check_channels(self, channels: int) -> None:
        if self.guided_channels > channels:
            raise ParameterError(
                f"{self.entry_name()}.guided_channels: found {self.guided_channels}, the generator's latents have "
                f"{channels}"
            )

    def _denoise(
        self, denoiser: Denoiser, labels: Tensor, noise: NoiseStreams, step: Step,
        start: tuple[Tensor, int] | None = None,
    ) -> Tensor:  # fmt: skip
        """:func:`~ims3core.diffusion.sampling.denoise` along ``steps`` evenly spaced timesteps."""
        from ims3core.diffusion.sampling import denoise
        from ims3core.diffusion.schedule import respace

        return denoise(
            denoiser, labels, noise, step=step, schedule=respace(denoiser.schedule, self.steps), start=start,
            guidance=self.guidance, guided_channels=self.guided_channels,
        )  # fmt: skip
