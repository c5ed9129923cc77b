"""scikit-learn's bundled handwritten digits: 1,797 real grey images of 8x8 pixels, 10 classes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from ims3core.ingest.listing import Listing, from_arrays


def read(section: Any = None, classes: Collection[str] | None = None) -> Listing:
    """The whole set; values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)
    return from_arrays([str(name) for name in bunch.target_names], {"all": (grey, bunch.target)}, where="digits")
