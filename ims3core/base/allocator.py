"""The C library's allocator: what a tensor leaves is kept for the next one.

glibc gives blocks above 32 MB back to the system as soon as they are free, and asks for new pages, which the system
clears, at the next step of a training: that took half of the time of a ConvNet on 256 images of 32 px.
"""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
OWN_CHOICE = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Whether this process keeps from now on what it frees; not where the environment or the C library decides."""
    if any(name in os.environ for name in OWN_CHOICE):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*option) for option in ((TRIM_THRESHOLD, 2**31 - 1), (MMAP_MAX, 0)))
