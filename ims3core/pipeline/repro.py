"""``ims3 repro``: the stages of dvc.yaml on many workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ims3core.errors import ParameterError
from ims3core.params import Params
from ims3core.pipeline import places, warm, worker
from ims3core.pipeline.driver import Driver, Plan
from ims3core.pipeline.graph import Graph, loaded_code
from ims3core.pipeline.places import Place
from ims3core.pipeline.schedule import Schedule
from ims3core.pipeline.workspace import exclusive

LOCK = Path("scratch/repro")


def run(root: Path, params: Params, targets: Sequence[str], place: Place, plan: Plan) -> str:
    """Reproduces ``targets``, names or addresses of stages, with all they stand on, or everything; returns a line.

    Args:
        plan: planned seconds and bytes of memory by address; empty where the data set is not known yet.

    Raises:
        ParameterError: a target that is no stage, options that cannot be.
        ClusterError: workers do not come or cannot be used, or stages failed.
    """
    loaded_code()  # before more of it is loaded
    graph, root = Graph(params.tree), root.resolve()
    known = {name for node in graph.nodes for name in (node.stage, node.address)}
    for target in targets:
        if target not in known:
            raise ParameterError(f"{target}: no stage of dvc.yaml; `dvc stage list` prints them")
    place.check()
    chosen = {node.address for node in (graph.upstream(list(targets)) if targets else graph.nodes)}

    from ims3core.pipeline.assembler import ProjectAssembler
    from ims3core.pipeline.dask_executor import DaskExecutor
    from ims3core.pipeline.progress import Board

    edges = {address: befores for address, befores in graph.edges().items() if address in chosen}
    executors: list[DaskExecutor] = []
    local = place.scheduler is None and place.cluster is None
    gpus = gpus_here(params) if local else 0
    threads = threads_here(params, place, gpus)
    with (
        exclusive(root / LOCK, "ims3 repro"),  # two at once would wait for each other's stages
        places.client_of(place, threads, gpus, lambda: executors[0].wanted if executors else 1) as client,
    ):
        executor = DaskExecutor(client, root, threads=threads, patience=60 * place.patience, redirect=local)
        executors.append(executor)
        try:
            executor.look(1)  # so that workers load what they need while this process does
            executor.own = worker.facts(worker.with_threads(params, threads))
            seconds, memory = plan()
            executor.gather()
            if not local:
                threads = params.compute.threads or executor.threads_each
            params = worker.with_threads(params, threads)
            assembler = ProjectAssembler(root, params, graph, threads=threads, gpus=executor.gpus, memory=memory)
            assembler.repository.ignore_outputs(edges)
            driver = Driver(Schedule(edges, seconds), assembler, executor, Board(len(edges)), replan=plan)
            with warm.serving():
                driver.run()
        finally:
            executor.close()
    return f"{len(edges)} stages are up to date; {driver.units} units were made"


@contextlib.contextmanager
def shared(params: Params, place: Place | None) -> Iterator[Place | None]:
    """``place`` for several runs, one after the other: its workers are started once, and stay."""
    if place is None or place.scheduler is not None:
        yield place
        return
    gpus = gpus_here(params) if place.cluster is None else 0
    with places.client_of(place, threads_here(params, place, gpus), gpus, lambda: places.MOST_JOBS) as client:
        yield Place(scheduler=client.scheduler.address, patience=place.patience)


def gpus_here(params: Params) -> int:
    """The GPUs of this machine that may be used."""
    import torch

    return torch.cuda.device_count() if params.compute.device != "cpu" else 0


def threads_here(params: Params, place: Place, gpus: int) -> int:
    """CPU threads of a worker on this machine: as many as there are in the parameters, or an equal share of all."""
    return params.compute.threads or max(1, len(os.sched_getaffinity(0)) // (place.workers or max(1, gpus)))
