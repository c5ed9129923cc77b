"""Where real images come from: one module per ``data.source``, whose ``read(wanted, classes)`` gives a Listing.

``wanted`` holds the section ``data``; ``classes`` are the names that will be used, or None for all: folders of others
are left alone. Whatever a library raises on the user's files becomes one line at this border.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from ims3core.intake.listing import Listing


def read(wanted: Any, classes: Collection[str] | None = None) -> Listing:
    """What the source ``wanted.source`` holds (:class:`ims3core.params.sections.Data`)."""
    return importlib.import_module(f"ims3core.intake.readers.{wanted.source}").read(wanted, classes)
