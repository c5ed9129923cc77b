"""The real training images themselves: nothing is made, every draw chooses from all of them."""

from __future__ import annotations

from typing import Any

from ims3core.params.schema import Empty as Section  # noqa: F401

SAMPLED = False
maker = None


def calls(wanted: Any) -> int:
    """No network is asked."""
    return 0
