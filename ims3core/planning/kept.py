"""What planning measured or counted on this machine, kept in the user's cache folder for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import platformdirs

from ims3core.base import files


def kept(
    name: str, facts: Any, make: Callable[[], dict[str, float]], *, fields: Collection[str], again: bool = False
) -> dict[str, float]:
    """The ``fields`` that ``make`` found for ``facts``, once, kept in the file ``name``.

    A file that is missing or damaged is made anew, one that cannot be written is no reason to fail.

    Args:
        facts: what the values depend on, with a ``repr`` that says all of it.
        again: finds them anew, for example after a measurement beside other work.
    """
    path, key = (
        Path(platformdirs.user_cache_dir("ims3"), f"{name}.json"),
        hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
    )
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not again and set(known.get(key, ())) == set(fields):
            return known[key]
    except (OSError, ValueError, AttributeError, TypeError):
        known = {}
    found = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, known | {key: found})
    return found
