"""How units are made: one after the other, on threads, or by several processes; the bytes are the same."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from ims3core.pipeline import progress

if TYPE_CHECKING:
    from ims3core.pipeline.stage import Stage, Unit

log = logging.getLogger(__name__)


def make_missing(stage: Stage, units: list[Unit]) -> None:
    """Makes the units of ``stage`` that are not there yet, those of this process or all of them together."""
    processes = stage.processes
    own = [units[number] for number in processes.shard(len(units))] if stage.sharing == "units" else units
    if stage.sharing == "steps" and not processes.is_main:
        missing: list[Unit] = processes.broadcast(None)
    else:
        missing = [unit for unit in own if not stage.workspace.has(unit.name)]
        missing = processes.broadcast(missing) if stage.sharing == "steps" else missing
    if not missing:
        return
    with made_now(stage, missing) as made:
        done = len(own) - len(missing)
        for _ in made if stage.silent else progress.track(made, label=stage.label, total=len(own), done=done):
            pass


def made_now(stage: Stage, units: list[Unit]) -> contextlib.closing[Generator[Unit, None, None]]:
    """``units``, made one by one as they are asked for, or on as many threads as the stage says.

    Closed on the way out: an interrupt stops what other threads are at before it goes further.
    """
    threads = stage.threads()
    return contextlib.closing(_one_by_one(stage, units) if threads == 1 else _on_threads(stage, units, threads))


def _one_by_one(stage: Stage, units: list[Unit]) -> Generator[Unit, None, None]:
    for unit in units:
        make(stage, unit)
        yield unit


def _on_threads(stage: Stage, units: list[Unit], threads: int) -> Generator[Unit, None, None]:
    """So many at once, on one CPU thread each; one that fails, or an interrupt, stops the others at their next step."""
    from ims3core.base.compute import one_thread_each

    stage.stopped = stopped = threading.Event()
    runs: list[Future[None]] = []
    with one_thread_each(), ThreadPoolExecutor(min(threads, len(units))) as pool:
        try:
            runs += [pool.submit(make, stage, unit) for unit in units]
            for number, run in enumerate(as_completed(runs)):
                run.result()
                yield units[number]
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def make(stage: Stage, unit: Unit) -> None:
    """Makes one unit, whole or not at all; where all processes make it together, the main one writes it."""
    if stage.sharing == "steps" and not stage.processes.is_main:
        stage.make(unit, stage.workspace.path / unit.name)
        return
    with stage.workspace.making(unit.name) as path:
        if path is not None:
            stage.make(unit, path)


def stop_if_cancelled(stopped: threading.Event) -> None:
    """Raises CancelledError where another unit failed or the run was interrupted."""
    if stopped.is_set():
        raise CancelledError
