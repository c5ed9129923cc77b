"""Progress bars on a terminal; in a pipe a line every few minutes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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


class Board:
    """One line per stage that is being made, on a terminal; in a pipe, one line about all every :data:`EVERY` seconds.

    The time left is the planned one, corrected by how long finished work took.
    """

    def __init__(self, total: int) -> None:
        self._total, self._ended, self._said = total, 0, time.monotonic()
        self._lines: dict[str, _Line] = {}
        self._planned = self._taken = 0.0
        self._bar = _board() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._bar.start()

    def begin(self, key: str, label: str, *, total: int, done: int, planned: float) -> None:
        """Shows a stage of ``total`` units, ``done`` of which are there, for which all ``planned`` seconds were."""
        line = self._lines[key] = _Line(label, total, done, planned / max(1, total), time.monotonic())
        if self._bar is not None:
            line.task = self._bar.add_task(label, total=total, completed=done, rate="", left="")

    def advance(self, key: str, units: int, seconds: float, workers: int) -> None:
        """Counts ``units``, which took a worker so many ``seconds``."""
        line = self._lines[key]
        line.made += units
        self._planned += units * line.each
        self._taken += seconds
        if self._bar is not None and line.task is not None:
            rate = f"{line.made / max(1e-3, time.monotonic() - line.began):.2g}/s"
            self._bar.update(line.task, advance=units, rate=rate, left=f"{self._left([line], workers)} left")
        elif (now := time.monotonic()) - self._said >= EVERY:
            self._said = now
            units_left = sum(one.left for one in self._lines.values())
            log.info(
                "%d of %d stages; %d units to go of those in work, about %s left for them",
                self._ended, self._total, units_left, self._left(list(self._lines.values()), workers),
            )  # fmt: skip

    def _left(self, lines: list[_Line], workers: int) -> str:
        """The time that is left of some stages."""
        planned = sum(line.left * line.each for line in lines)
        seconds = planned * self._taken / max(1e-9, self._planned) / max(1, workers)
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

    def assemble(self, key: str) -> None:
        """Shows that all units of a stage are there."""
        line = self._lines[key]
        if self._bar is not None and line.task is not None:
            self._bar.update(line.task, left="assembling")

    def end(self, key: str) -> None:
        """Counts a stage that ended, and takes its line away."""
        self._ended += 1
        line = self._lines.pop(key, None)
        if self._bar is not None and line is not None and line.task is not None:
            self._bar.remove_task(line.task)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


@dataclass
class _Line:
    """A stage on the board; ``each`` is the planned time of a unit."""

    label: str
    total: int
    done: int
    each: float
    began: float
    made: int = 0
    task: TaskID | None = None

    @property
    def left(self) -> int:
        """Units that are missing."""
        return self.total - self.done - self.made


def _board() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"), console=Console(stderr=True), transient=True,
    )  # fmt: skip
