"""Readers of real images: one module per ``data.source``, whose ``read(section, classes)`` returns a Listing.

``section`` holds the keys of ``data``; ``classes`` are the names that will be used, or None for all: folders of others
are not looked into. Whatever a library raises on the user's files becomes a DataError about that file.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ims3core.errors import DataError
from ims3core.ingest import folders, tables
from ims3core.ingest.listing import Listing


def read(section: Any, classes: Collection[str] | None = None) -> Listing:
    """All images of the source ``section.source`` (:class:`ims3core.params.sections.Data`).

    A folder of picture files has one reader, also where the source says ``huggingface``.

    Raises:
        DataError: there is no image.
    """
    files = section.source == "huggingface" and section.path is not None and _of_pictures(section, Path(section.path))
    source = "imagefolder" if files else section.source
    listing: Listing = importlib.import_module(f"ims3core.ingest.readers.{source}").read(section, classes)
    if classes is None and not len(listing.items):
        place = f"data.path: {section.path}" if section.path else f"data.name: {section.name}"
        why = f"; {listing.warnings[0]}" if listing.warnings else ""
        raise DataError(f"{place}: found no image with a label, wanted some of at least two classes{why}")
    return listing


def _of_pictures(section: Any, path: Path) -> bool:
    """Whether ``path`` is a table of labels, or a folder of picture files without parquet or Arrow files of images.

    A parquet file of words and numbers beside pictures has their labels, unless ``data.image_column`` chooses in it.
    """
    path = path.expanduser()
    if not path.is_dir():
        return path.suffix.lower() in tables.ENDINGS and path.suffix.lower() != ".parquet"
    files = [file for file in path.rglob("*") if file.is_file()]
    if not any(folders.is_picture(file.name) for file in files):
        return False
    stored = (file for file in files if file.suffix.lower() in (".parquet", ".arrow"))
    return all(section.image_column is None and tables.is_candidate(file) or file.stem == "metadata" for file in stored)
