"""One root seed, one independent stream per random thing.

Every random draw names its purpose and coordinates, for example
``generator(root, "candidate", draw, class_index, index)``. The stream therefore does not depend on
the order, batch size, sharding or number of processes in which things are drawn, and a resumed run
needs no stored random state.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(root: int, purpose: str, *coordinates: int | str) -> int:
    """A 63-bit seed from (root, purpose, coordinates) by BLAKE2b; stable across machines and versions."""
    text = "\x1f".join([str(int(root)), purpose, *map(str, coordinates)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(root: int, purpose: str, *coordinates: int | str) -> torch.Generator:
    """A CPU ``torch.Generator`` seeded by :func:`derive_seed`; noise is drawn on the CPU, then moved."""
    import torch

    return torch.Generator().manual_seed(derive_seed(root, purpose, *coordinates))


@contextlib.contextmanager
def scoped_rng(seed: int) -> Iterator[None]:
    """Seeds torch's global stream for code that takes no generator, and restores it on leaving.

    Only for library code (weight initialisers, kornia) that has no ``generator`` argument.
    """
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
