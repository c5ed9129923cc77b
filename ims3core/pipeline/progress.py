"""Progress bars on a terminal; in a pipe a line every few minutes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
EVERY = 300.0  # seconds

log = logging.getLogger(__name__)


def track(items: Iterable[Item], *, label: str, total: int | None = None, done: int = 0) -> Iterator[Item]:
    """Yields ``items`` under a bar with an estimate of the time left; in a pipe, one line every :data:`EVERY` seconds.

    Args:
        total: how many there are in all, with the ``done`` ones of an earlier run; None: as many as ``items`` says.
    """
    if total is None and isinstance(items, Sized):
        total = done + len(items)
    if not sys.stderr.isatty():
        yield from _logged(items, label, total, done)
        return
    with _bar() as bar:
        task = bar.add_task(label, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _logged(items: Iterable[Item], label: str, total: int | None, done: int) -> Iterator[Item]:
    began = said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - said >= EVERY:
            said = now
            left = (
                ""
                if total is None
                else f" of {total}, about {(total - done - count) * (now - began) / count / 60:.0f} min left"
            )
            log.info("%s: %d%s", label, done + count, left)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
