"""Images of the generator with noise of their own, to compute centroids from (paper Table 13)."""

from __future__ import annotations

from ims3core.axes.sources import SampledSource


class Reference(SampledSource):
    """As generated, from other noise: these images are no candidates."""

    noise_stream = "reference"
