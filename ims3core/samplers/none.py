"""No sampler: the source draws no latents."""

from __future__ import annotations

from ims3core.params.schema import Empty as Section  # noqa: F401
