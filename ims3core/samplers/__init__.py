"""How latents are drawn from noise, guided by the class label.

An entry of this axis has

``Section``
    Its keys.
``TAKES``
    What it makes of a guide: a tuple of ``nothing``, ``targets`` (clean latents to steer to), ``starts`` (latents at
    some noise level to go on from). A guide fits if what it ``GIVES`` is among them.
``calls(**section)``
    Network calls per image; one under classifier-free guidance counts two.
``sample(denoiser, label, streams, given, **section)``
    Clean latents (B, channels, side, side), float32, for generator labels ``label`` (B,) int64.
    ``denoiser`` is a :class:`ims3core.diffusion.sampling.Denoiser`. Everything random comes from ``streams``, one
    generator per image (:class:`ims3core.diffusion.sampling.NoiseStreams`). ``given`` (B, channels, side, side)
    is what the guide gives, None without one.

``none`` stands where a source takes no sampler.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ims3core.params import schema

ENTRY = ("Section", "TAKES", "calls", "sample")


class Steps(schema.Section):
    """The keys of a sampler that walks along respaced timesteps under classifier-free guidance."""

    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: schema.Positive
    guided_channels: schema.Index


def network_calls(*, steps: int, guidance: float, **section: Any) -> int:
    """Network calls per image of such a sampler: a guided step counts two."""
    return steps * (1 if guidance == 1 else 2)
