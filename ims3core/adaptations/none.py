"""The generator as it is."""

from __future__ import annotations

from ims3core.params.schema import Empty as Section  # noqa: F401
