"""Readers of real images: one module per ``data.source``, whose ``read(section, classes)`` returns a Listing.

``section`` holds the keys of ``data``; ``classes`` are the names that will be used, or None for all: folders of others
are not looked into. Whatever a library raises on the user's files becomes a DataError about that file.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from ims3core.ingest.listing import Listing


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """All images of the source ``section.source`` (:class:`ims3core.params.sections.Data`)."""
    return importlib.import_module(f"ims3core.ingest.readers.{section.source}").read(section, classes)
