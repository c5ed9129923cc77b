"""What is measured or counted once on a machine, and stored in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import platformdirs
import torch

from ims3core.base import files


def cached(
    name: str, facts: Any, compute: Callable[[], dict[str, float]], *, fields: Collection[str], refresh: bool = False,
    keep: Callable[[], bool] = lambda: True,
) -> dict[str, float]:  # fmt: skip
    """The ``fields`` that ``compute`` returns for ``facts``, computed once and stored in the file ``name``.

    A file that is missing or damaged is written anew; one that cannot be written is no reason to fail.

    Args:
        facts: what the values depend on, with a complete ``repr``.
        refresh: computes them again.
        keep: asked after computing, whether the values are worth being stored.
    """
    path = Path(platformdirs.user_cache_dir("ims3"), f"{name}.json")
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        kept = stored.get(key, {})
        if not refresh and set(kept) == set(fields) and all(_is_number(value) for value in kept.values()):
            return dict(kept)
    except (OSError, ValueError, AttributeError, TypeError):
        stored = {}
    values = compute()
    if not keep():
        return values
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, stored | {key: values})
    return values


def _is_number(value: object) -> bool:
    """NaN and infinities, which Python's JSON reads, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def processor(device: torch.device) -> str:
    """What computes on ``device``, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
