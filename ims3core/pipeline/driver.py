"""Runs a graph on many workers: they make the units of stages, DVC assembles, each as soon as it can be.

Three parts meet here. The *schedule* knows which stage is next. The *assembler* asks and tells DVC and opens stages,
one after the other in a thread of its own. The *executor* is the workers. What a run leaves is the same as that of one
process.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ims3core.errors import ClusterError, CodeChangedError, HeldError, Ims3Error
from ims3core.pipeline.progress import Board
from ims3core.pipeline.schedule import Schedule

log = logging.getLogger(__name__)
TRIES = 3
AGAIN = 3.0  # seconds until a stage is asked for again that another process is at
TICK = 0.5  # seconds that it waits for something to happen
Need = Literal["device", "host"]
Plan = Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]


@dataclass
class Job:
    """What a worker is asked for at a time: a unit, or as many as it makes at once on its threads.

    Attributes:
        need: what of a worker it holds, its ``device`` or only its ``host``.
        memory: bytes that it takes at most.
        arguments: of the function that workers run.
        state: of the work when it was last tried; another one is a new beginning.
    """

    address: str
    names: list[str]
    need: Need = "device"
    memory: float = 0.0
    arguments: tuple[Any, ...] = ()
    tries: int = 0
    state: Any = None


@dataclass
class Work:
    """The units of one stage that are missing, of ``total``, as jobs."""

    label: str
    total: int
    jobs: list[Job] = field(default_factory=list)


class Assembler(Protocol):
    """What is done at one place, one after the other.

    Attributes:
        memory: bytes that a job takes at most, by address.
    """

    memory: Mapping[str, float]

    def begin(self, address: str) -> Work | None:
        """The work of a stage; None where there is nothing to do; a HeldError asks to be called again later."""

    def worked(self, address: str, seconds: float) -> None:
        """Notes that a worker took so long for a job."""

    def finish(self, address: str) -> None:
        """Assembles a stage whose units are all there; a HeldError asks to be called again later."""

    def release(self, address: str) -> None:
        """Lets go of a stage that failed."""

    def stop(self) -> None:
        """Has whatever waits for others give up: asked beside other work."""

    def missing(self, job: Job) -> list[str]:
        """The units of a job that are not there, and nothing else: asked beside other work."""

    def state(self, job: Job) -> Any:
        """Of a job that failed: it changes whenever some of the work was kept."""


class Executor(Protocol):
    """The workers."""

    events: queue.SimpleQueue[tuple[Any, ...]]

    def look(self, jobs: int) -> None:
        """Sees who came and who went; ``jobs`` wait or run. Raises a ClusterError where nobody comes."""

    def free(self, job: Job) -> str | None:
        """The worker that can take ``job`` now."""

    def start(self, job: Job, worker: str) -> None:
        """Hands it over; an event follows: (``made``, job, seconds) or (``lost``, job, reason, log, try it again)."""

    def next(self, seconds: float) -> tuple[Any, ...] | None:
        """What happened, or None where nothing did within ``seconds``."""

    @property
    def size(self) -> int:
        """How many workers there are."""


class Driver:
    """One run.

    Attributes:
        units: that were made.

    Args:
        replan: planned seconds and memory by address, asked again when the stage ``replan_after`` has ended.
    """

    def __init__(
        self, schedule: Schedule, assembler: Assembler, executor: Executor, board: Board,
        replan: Plan | None = None, replan_after: str = "prepare",
    ) -> None:  # fmt: skip
        self.schedule, self.assembler, self.executor, self.board = schedule, assembler, executor, board
        self._replan, self._replan_after = replan, replan_after
        self.units = 0
        self._ready: dict[tuple[Need, float], list[tuple[float, int, Job]]] = defaultdict(list)  # by need and memory
        self._count = itertools.count()
        self._open: dict[str, int] = {}  # jobs that are left of a stage
        self._errands: queue.PriorityQueue[tuple[int, float, int, str, str]] = queue.PriorityQueue()
        self._running = 0
        self._later: list[tuple[float, str, str]] = []  # when, which errand, of which stage
        self._said: set[str] = set()

    def run(self) -> None:
        """Everything that can be made.

        Raises:
            ClusterError: stages failed, each of which a line has named, or nobody is there to make them.
        """
        assembler = threading.Thread(target=self._assembling, name="assembler", daemon=True)
        assembler.start()
        end = -1  # before everything that waits
        try:
            while not self.schedule.over:
                for address in self.schedule.ready():
                    self._send("begin", address)
                self._ask_again()
                self._hand_out()
                if (event := self.executor.next(TICK)) is not None:
                    getattr(self, f"_{event[0]}")(*event[1:])
                self.executor.look(self._running + sum(map(len, self._ready.values())))
            end = 2
        finally:
            if end < 0:
                self.assembler.stop()
            self._errands.put((end, 0.0, next(self._count), "end", ""))
            assembler.join()  # DVC is never left in the middle of a stage
            self.board.close()
        if self.schedule.failed:
            blocked = f"; not begun: {', '.join(self.schedule.blocked)}" if self.schedule.blocked else ""
            raise ClusterError(f"failed: {', '.join(self.schedule.failed)}{blocked}; see the lines above")

    def _send(self, errand: str, address: str) -> None:
        """To the assembler: what gives workers something to do comes first, then what most is waiting for."""
        order = {"begin": 0, "release": 0, "finish": 1}[errand]
        self._errands.put((order, -self.schedule.remaining[address], next(self._count), errand, address))

    def _assembling(self) -> None:
        while (errand := self._errands.get())[3] != "end":
            kind, address = errand[3:]
            try:
                result = getattr(self.assembler, kind)(address)
            except HeldError as error:
                self.executor.events.put(("held", kind, address, error))
            except Exception as error:
                expected = isinstance(error, (Ims3Error, OSError))
                if not expected:
                    log.exception("%s", address)
                self.executor.events.put(("refused", address, error))
            else:
                if kind != "release":
                    self.executor.events.put((kind, address, result))

    def _held(self, errand: str, address: str, error: HeldError) -> None:
        """Another process is at a stage: a line says so once, all else goes on, and it is asked again."""
        if address not in self._said:
            self._said.add(address)
            log.warning("%s; waiting for it to end", error)
        self._later.append((time.monotonic() + AGAIN, errand, address))

    def _ask_again(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for _, errand, address in due:
            self._send(errand, address)

    def _hand_out(self) -> None:
        """Gives jobs to free workers, the longest path first; one that nobody can take lets smaller ones pass."""
        refused: dict[Need, float] = {}  # memory, the least that nobody had
        while queues := [
            jobs for (need, memory), jobs in self._ready.items() if jobs and memory < refused.get(need, math.inf)
        ]:
            first = min(queues, key=lambda jobs: jobs[0])
            job = first[0][2]
            if job.address not in self._open:
                heapq.heappop(first)  # its stage failed
            elif (worker := self.executor.free(job)) is None:
                refused[job.need] = job.memory
            else:
                heapq.heappop(first)
                self._running += 1
                self.executor.start(job, worker)

    def _begin(self, address: str, work: Work | None) -> None:
        if work is None:
            self._ended(address)
            return
        left = sum(len(job.names) for job in work.jobs)
        self.board.begin(
            address, work.label, total=work.total, done=work.total - left, planned=self.schedule.seconds[address]
        )
        self._open[address] = len(work.jobs)
        for job in work.jobs:
            self._queue(job)
        if not work.jobs:
            self._assemble(address)

    def _assemble(self, address: str) -> None:
        self.board.assemble(address)
        self._send("finish", address)

    def _queue(self, job: Job) -> None:
        entry = -self.schedule.remaining[job.address], next(self._count), job
        heapq.heappush(self._ready[job.need, job.memory], entry)

    def _made(self, job: Job, seconds: float) -> None:
        self._running -= 1
        if job.address not in self._open:
            return
        self.units += len(job.names)
        self.assembler.worked(job.address, seconds)
        self.board.advance(job.address, len(job.names), seconds, self.executor.size)
        self._open[job.address] -= 1
        if not self._open[job.address]:
            self._assemble(job.address)

    def _lost(self, job: Job, reason: str, where: str, again: bool) -> None:
        """A job that failed is tried again, at most :data:`TRIES` times without any of it being kept."""
        self._running -= 1
        if job.address not in self._open:
            return
        state = self.assembler.state(job)
        job.tries = job.tries + 1 if state == job.state else 1
        job.state = state
        if again and job.tries < TRIES:
            job.names = self.assembler.missing(job) or job.names
            self._queue(job)
            return
        tried = f", tried {job.tries} times" if job.tries > 1 else ""
        log.error("%s: %s: %s%s; log: %s", job.address, ", ".join(job.names), reason, tried, where)
        self._fail(job.address)

    def _refused(self, address: str, error: Exception) -> None:
        if isinstance(error, CodeChangedError):
            raise error  # of every stage that is left
        log.error("%s: %s", address, str(error) or type(error).__name__)
        self._fail(address)

    def _fail(self, address: str) -> None:
        if self._open.pop(address, None) is not None:
            self._send("release", address)
        self.board.end(address)
        self.schedule.end(address, failed=True)

    def _finish(self, address: str, _: None) -> None:
        self._open.pop(address)
        self._ended(address)

    def _ended(self, address: str) -> None:
        self.board.end(address)
        self.schedule.end(address)
        if address == self._replan_after and self._replan is not None:
            seconds, self.assembler.memory = self._replan()
            self.schedule.replan(seconds)
