"""Where workers are: on this machine, behind a scheduler that runs, or in jobs of a cluster's queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ims3core.base.allocator import ONE_ARENA
from ims3core.errors import ClusterError, ParameterError
from ims3core.params import tree_of

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)
MOST_JOBS = 64
IDLE_LOOKS = 60  # one a second, before a job that has nothing to do is ended: between stages there is little
CONNECTING = "10s"
CLOSING = 20.0  # seconds that workers, or jobs of a queue, may take to end
STARTS = 12  # of the workers of this machine: one that is ended as it begins is begun again
KINDS = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster", "oar": "OARCluster",
    "htcondor": "HTCondorCluster", "moab": "MoabCluster", "local": "LocalCluster",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """What the command line says of workers: one of a number, an address, a file of dask-jobqueue; or nothing.

    Attributes:
        patience: minutes that a run waits for a worker while there is none.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: Path | None = None
    patience: float = 60.0

    def check(self) -> None:
        """Raises a ParameterError for what cannot be, a ClusterError where Dask is missing."""
        given = {f"--{name}": value for name, value in vars(self).items() if name != "patience" and value is not None}
        if len(given) > 1:
            raise ParameterError(f"found {' and '.join(given)}, wanted one of --workers, --scheduler and --cluster")
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"--workers: found {self.workers}, wanted 1 or more")
        if self.patience <= 0:
            raise ParameterError(f"--patience: found {self.patience:g}, wanted more than 0 minutes")
        if self.cluster is not None:
            read_cluster(self.cluster)
        needed = ["distributed", *(["dask_jobqueue"] if self.cluster else [])]
        if missing := [name for name in needed if find_spec(name) is None]:
            raise ClusterError(f"{missing[0]} is not installed; `pip install 'ims3[cluster]'` brings it")

    def options(self) -> list[str]:
        """As they are on the command line."""
        named = {"--workers": self.workers, "--scheduler": self.scheduler, "--cluster": self.cluster}
        words = [word for key, value in named.items() if value is not None for word in (key, str(value))]
        return [*words, "--patience", f"{self.patience:g}"]


def read_cluster(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind of queue that a file of dask-jobqueue is for, and all of the file."""
    try:
        tree = tree_of(path.read_text(encoding="utf-8"), name=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"--cluster: {path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    section: Any = tree.get("jobqueue")
    kinds = list(section) if isinstance(section, dict) else []
    if len(kinds) != 1 or kinds[0] not in KINDS or not isinstance(section[kinds[0]], dict):
        found = ", ".join(map(str, kinds)) or "none"
        raise ParameterError(f"--cluster: {path}: found {found} under jobqueue, wanted one of {', '.join(KINDS)}")
    _bounds(path, tree)
    return kinds[0], tree


def _bounds(path: Path, tree: dict[str, Any]) -> tuple[int, int, int]:
    """The least and most workers of a file, and how many looks an idle one is kept."""
    section: Any = tree
    for name, inside in (("distributed", "distributed"), ("adaptive", "distributed.adaptive")):
        section = section.get(name, {})
        if not isinstance(section, dict):
            raise ParameterError(f"--cluster: {path}: {inside}: found {section}, wanted keys with values")
    found = []
    for key, default in (("minimum", 0), ("maximum", MOST_JOBS), ("wait-count", IDLE_LOOKS)):
        value = section.get(key, default)
        if type(value) is not int or value < 0:
            raise ParameterError(
                f"--cluster: {path}: distributed.adaptive.{key}: found {value!r}, wanted a whole number"
            )
        found.append(value)
    if found[1] < max(1, found[0]):
        raise ParameterError(
            f"--cluster: {path}: distributed.adaptive: found minimum {found[0]} and maximum {found[1]}, wanted a "
            "maximum of 1 or more that is not below the minimum"
        )
    return found[0], found[1], found[2]


@contextlib.contextmanager
def client_of(place: Place, threads: int, gpus: int, wanted: Callable[[], int]) -> Iterator[Client]:
    """A client of Dask for the workers of ``place``, which are started and ended here unless they run already.

    Args:
        threads: of a worker on this machine; each of ``gpus`` workers there has a GPU of its own.
        wanted: how many workers would have something to do, for clusters that grow and shrink.
    """
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a worker that dies is named by the run
    quiet: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.comm.timeouts.connect": CONNECTING,
        # A worker's libraries find what they find in a process of this shell: Dask would set the number of threads, and
        # MALLOC_TRIM_THRESHOLD_, by which every freed tensor goes back to the system and is paid for again.
        "distributed.nanny.pre-spawn-environ": ONE_ARENA,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(quiet))
        if place.scheduler is not None:
            _knock(place.scheduler)
            address: Any = place.scheduler
        elif place.cluster is not None:
            address = stack.enter_context(_queue(place.cluster, wanted))
        else:
            address = stack.enter_context(_local(place.workers or max(1, gpus), threads, gpus))
        client = Client(address, timeout=CONNECTING, set_as_default=False)
        stack.callback(closed, client.close, timeout=CLOSING)
        if find_spec("bokeh") is not None:
            log.info("dashboard: %s", client.dashboard_link)
        yield client


def _knock(address: str) -> None:
    """Raises a ClusterError where no scheduler answers: a Client alone would take long to end, and not quietly."""
    from distributed.core import connect
    from distributed.security import Security

    async def knock() -> None:
        comm = await connect(address, timeout=CONNECTING, **Security().get_connection_args("client"))
        comm.abort()

    try:
        asyncio.run(knock())
    except (OSError, ValueError) as error:
        raise ClusterError(f"--scheduler: no scheduler of Dask answers at {address!r}") from error


def closed(close: Callable[..., object], **options: Any) -> None:
    """Calls ``close``, and keeps what goes wrong in it from taking the place of why it is called, such as Ctrl-C."""
    try:
        close(**options)
    except Exception:
        log.debug("while closing", exc_info=True)


@contextlib.contextmanager
def _local(count: int, threads: int, gpus: int) -> Iterator[Any]:
    """So many processes on this machine; where there are GPUs each has one, and a second thread for what needs none."""
    from distributed import Nanny, Scheduler, SpecCluster

    options = {
        "nthreads": max(2, threads) if gpus else threads,
        "memory_limit": 0,
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,
    }
    spec = {
        number: {
            "cls": Nanny,
            "options": options | ({"env": {"CUDA_VISIBLE_DEVICES": _visible(number, gpus)}} if gpus else {}),
        }
        for number in range(count)
    }
    dashboard = {"dashboard": find_spec("bokeh") is not None, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, **dashboard}}
    for tried in range(STARTS):
        try:
            cluster = SpecCluster(workers=spec, scheduler=scheduler, silence_logs=False)
        except RuntimeError as error:  # one of them died as it began
            if tried + 1 == STARTS:
                raise ClusterError(f"--workers: a worker does not start: {error}") from error
        else:
            break
    with _closing(cluster):
        yield cluster


@contextlib.contextmanager
def _closing(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # what its loop was at when it is closed
        closed(cluster.close, timeout=CLOSING)


def _visible(number: int, gpus: int) -> str:
    """The GPU of a worker, of those that this process may use."""
    mine = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return mine[number % len(mine)] if mine else str(number % gpus)


@contextlib.contextmanager
def _queue(path: Path, wanted: Callable[[], int]) -> Iterator[Any]:
    """Workers in jobs of a queue, as many as there is work for, between the bounds of the file."""
    import dask
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster
    from distributed.deploy.adaptive import Adaptive

    kind, tree = read_cluster(path)

    class Demand(Adaptive):
        """The driver holds work back, so it and not the scheduler knows how much there is."""

        async def target(self) -> int:
            return int(min(max(wanted(), self.minimum), self.maximum))

    with dask.config.set(dask.config.merge(dask.config.config, tree)):
        least, most, looks = _bounds(path, tree)
        make = LocalCluster if kind == "local" else getattr(dask_jobqueue, KINDS[kind])
        try:
            cluster = make(silence_logs=False)
        except (ValueError, TypeError, RuntimeError, OSError, yaml.YAMLError) as error:
            raise ParameterError(f"--cluster: {path}: {' '.join(str(error).split())}") from error
        with _closing(cluster):
            cluster.adapt(minimum=least, maximum=most, wait_count=looks, Adaptive=Demand)
            yield cluster
