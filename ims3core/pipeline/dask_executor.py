"""The workers of a run: Dask's, on this machine, behind a scheduler, or jobs of a cluster's queue.

The driver gives a worker one thing at a time and holds all else back: so a worker that dies takes nothing with it but
what it was at, and a job that became urgent never waits behind others on a busy worker.
"""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.errors import ClusterError, CodeChangedError, Ims3Error
from ims3core.pipeline import worker
from ims3core.pipeline.driver import Job
from ims3core.pipeline.places import closed

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)
LOOKS = 0.25  # seconds between looks at who is there
REPLACING = 10.0  # seconds between looks at who has to be replaced
DIED = "its worker died or was stopped"


@dataclass
class Member:
    """A worker that was let in; ``busy`` with what it holds now; ``last``: the stage it was at."""

    facts: worker.Facts
    threads: int
    memory: float
    busy: dict[str, Job] = field(default_factory=dict)
    last: str = ""


class DaskExecutor:
    """The workers that a client of Dask sees.

    Attributes:
        own: what a worker must be like; nobody is let in before it is known.

    Args:
        threads: CPU threads of a worker.
        patience: seconds without a worker after which a run ends.
        make: what workers run with the arguments of a job.
    """

    def __init__(
        self, client: Client, root: Path, *, threads: int, patience: float, redirect: bool = False,
        make: Callable[..., None] = worker.make_units,
    ) -> None:  # fmt: skip
        self.client, self.root, self.threads = client, root, threads
        self.own: worker.Facts | None = None
        self.patience, self.redirect, self.make = patience, redirect, make
        self.events: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.members: dict[str, Member] = {}
        self.wanted = 0
        self._there: dict[str, Any] = {}
        self._meeting: dict[str, Future[Any]] = {}
        self._refused: dict[str, str] = {}
        self._handed: dict[str, _Handed] = {}
        self._alone_since = self._looked = self._replaced = time.monotonic()
        self._token = f"token-{uuid.uuid4().hex}"
        folder = root / worker.LOGS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self._token).touch()

    def close(self) -> None:
        """Takes back what is still out."""
        for handed in self._handed.values():
            closed(handed.future.cancel, force=True)
        (self.root / worker.LOGS / self._token).unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """How many workers are here."""
        return len(self.members)

    @property
    def threads_each(self) -> int:
        """The threads of a worker, of the one with the fewest."""
        return min(member.threads for member in self.members.values())

    @property
    def gpus(self) -> bool:
        """Whether workers compute on GPUs."""
        return any(member.facts.gpu for member in self.members.values())

    def gather(self) -> None:
        """Waits for the first worker."""
        while not self.members:
            self.look(1)
            time.sleep(0.05)

    def look(self, jobs: int) -> None:
        """Asks the scheduler who is there, greets who came, and takes jobs back from who went.

        Raises:
            ClusterError: all workers are unlike this process, or none came for too long.
        """
        self.wanted, now = jobs, time.monotonic()
        if now - self._looked < LOOKS and self.members:
            return
        self._looked = now
        self._replace(now)
        there = self._asked()
        for address in self.members.keys() - there.keys():
            self._gone(address)
        for address in there.keys() - self.members.keys() - self._meeting.keys() - self._refused.keys():
            self._meeting[address] = self.client.submit(
                worker.introduce, self.root, self._token, self.threads, redirect=self.redirect,
                workers=[address], pure=False, key=f"introduce-{uuid.uuid4().hex}",
            )  # fmt: skip
        for address, future in list(self._meeting.items()):
            if address not in there:
                del self._meeting[address]
            elif future.done() and self.own is not None:
                del self._meeting[address]
                self._meet(address, future, there[address], self.own)
        if self.members or self._meeting or not jobs:
            self._alone_since = now
        elif there and there.keys() <= self._refused.keys():
            raise ClusterError(f"no worker can be used: {next(iter(self._refused.values()))}")
        elif now - self._alone_since > self.patience:
            raise ClusterError(
                f"no worker came within {self.patience:.0f} s, and {jobs} pieces of work wait; what is made stays, and "
                "the same command goes on"
            )

    def _replace(self, now: float) -> None:
        """Has the cluster that is ours start again what is gone: jobs that were cancelled, processes that died."""
        cluster: Any = self.client.cluster
        if cluster is not None and now - self._replaced > REPLACING:
            self._replaced = now
            # Not by scale(): of a queue it counts workers where worker_spec counts jobs, and so would end jobs.
            cluster.loop.add_callback(cluster._correct_state)

    def _asked(self) -> dict[str, Any]:
        """Who is there by address; as before while the client looks for a scheduler that does not answer."""
        scheduler: Any = self.client.scheduler
        if scheduler is None or self.client.status in ("closing", "closed"):
            raise ClusterError("the scheduler is lost; what is made stays, and the same command goes on")
        if self.client.status == "running":
            # Not scheduler_info(): it returns what a timer of the client, which asks for no workers, may have noted.
            with suppress(OSError):
                self._there = self.client.sync(scheduler.identity, n_workers=-1)["workers"]
        return self._there

    def _meet(self, address: str, future: Future[Any], info: dict[str, Any], own: worker.Facts) -> None:
        """Lets a worker in that would make the same bytes as this process."""
        if future.status != "finished":
            error = future.exception() if future.status == "error" else None
            if error is not None and type(error).__name__ != "KilledWorker":
                self._refuse(address, worker.reason(error))
            return
        facts: worker.Facts = future.result()
        if (difference := facts.difference(own)) is not None:
            self._refuse(address, difference)
            return
        self.members[address] = Member(facts, int(info["nthreads"]), float(info.get("memory_limit") or 0))

    def _refuse(self, address: str, why: str) -> None:
        self._refused[address] = f"worker {address}: {why}"
        log.error("%s; not used", self._refused[address])

    def free(self, job: Job) -> str | None:
        """A worker that does not hold what ``job`` needs, at best the one that knows its stage."""
        enough = {a: m for a, m in self.members.items() if not m.memory or m.memory >= job.memory} or self.members
        able = [address for address, member in enough.items() if job.need not in member.busy]
        return max(able, key=lambda one: self.members[one].last == job.address, default=None)

    def start(self, job: Job, address: str) -> None:
        """Sends the units of a job that are missing to a worker."""
        member = self.members[address]
        member.busy[job.need], member.last = job, job.address
        key = f"{job.address}-{uuid.uuid4().hex}"
        future = self.client.submit(
            self.make, *job.arguments, key=key, pure=False, workers=[address], resources={job.need: 1}
        )  # fmt: skip
        self._handed[key] = _Handed(future, job, address, member, time.monotonic())
        future.add_done_callback(lambda one: self.events.put(("returned", key, one.status)))

    def next(self, seconds: float) -> tuple[Any, ...] | None:
        """What happened, or None where nothing did within ``seconds``."""
        try:
            event = self.events.get(timeout=seconds)
        except queue.Empty:
            return None
        return self._returned(*event[1:]) if event[0] == "returned" else event

    def _returned(self, key: str, status: str) -> tuple[Any, ...] | None:
        """A job came back, made or not."""
        if (handed := self._handed.pop(key, None)) is None:
            return None  # it was taken back
        job, member = handed.job, handed.member
        member.busy.pop(job.need, None)
        if status == "finished":
            return "made", job, time.monotonic() - handed.began
        if status != "error":
            return "lost", job, "it was taken back", member.facts.log, True
        error = handed.future.exception()
        if type(error).__name__ == "KilledWorker":
            self.members.pop(handed.address, None)
            return "lost", job, DIED, member.facts.log, True
        if isinstance(error, CodeChangedError):
            raise error
        return "lost", job, worker.reason(error), member.facts.log, not isinstance(error, Ims3Error)

    def _gone(self, address: str) -> None:
        """A worker died, or its time was over: what it held is taken back."""
        member = self.members.pop(address)
        for key in [key for key, handed in self._handed.items() if handed.address == address]:
            handed = self._handed.pop(key)
            handed.future.cancel(force=True)
            self.events.put(("lost", handed.job, DIED, member.facts.log, True))


@dataclass
class _Handed:
    """A job that a worker is at."""

    future: Future[Any]
    job: Job
    address: str
    member: Member
    began: float
