"""The C library's allocator: what a tensor leaves is kept for the next one.

glibc gives blocks above 32 MB back to the system as soon as they are free, and asks for new pages, which the system
clears, at the next step of a training: that took half of the time of a ConvNet on 256 images of 32 px. A thread that is
not the first of its process gets memory of its own in pieces of 64 MB at most, of which the same is true: so all
threads share that of the first.
"""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of malloc.h
NEVER = -1  # trim; the largest number is 2 GB, which a training at 224 px frees at every step
OWN_CHOICE = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
ARENAS = "MALLOC_ARENA_MAX"
ONE_ARENA = {ARENAS: "1"}  # for processes that have threads before they ask for this


def keep_freed_memory() -> bool:
    """Whether this process keeps from now on what it frees; not where the environment or the C library decides.

    Threads that begin later share one arena; those that have begun keep the one that they have.
    """
    if any(name in os.environ for name in OWN_CHOICE):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = [(TRIM_THRESHOLD, NEVER), (MMAP_MAX, 0), *([] if ARENAS in os.environ else [(ARENA_MAX, 1)])]
    return all(mallopt(*option) for option in options)


def give_back() -> None:
    """Gives the system what this process has kept, for a process that goes on with something else."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
