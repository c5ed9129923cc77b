"""Gaussian noise around the mean colour of the real images: where SRe2L starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ims3core.params.schema import Empty as Section  # noqa: F401

if TYPE_CHECKING:
    from ims3core.data.inputs import Inputs
    from ims3core.data.pools import Made, Spot, Wanted

SAMPLED = False


def maker(inputs: Inputs, wanted: Wanted, machine: Any) -> Callable[[list[Spot]], Made]:
    """Each image from its own seed; standard normal in the units of the teacher's normalisation, clipped to [0, 1]."""
    import torch

    from ims3core.data import STATISTICS, read_statistics
    from ims3core.data.pools import Made

    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in read_statistics(inputs.real / STATISTICS))
    shape = inputs.train.images.shape[1:]

    def make(spots: list[Spot]) -> Made:
        streams = [torch.Generator().manual_seed(wanted.seed(spot)) for spot in spots]
        values = torch.stack([mean + std * torch.randn(shape, generator=stream) for stream in streams])
        return Made(values.clamp(0, 1).mul(255).round().to(torch.uint8))

    return make


def calls(wanted: Any) -> int:
    """No network is asked."""
    return 0
