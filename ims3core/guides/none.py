"""No guide: the sampler starts from noise and knows the class only."""

from __future__ import annotations

from ims3core.params.schema import Empty as Section  # noqa: F401
