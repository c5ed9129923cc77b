"""The assembling side of a run on many workers: opens stages, holds their workspaces, and has DVC assemble them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ims3core.params import Params
from ims3core.pipeline import harness, timings
from ims3core.pipeline.driver import Job, Need, Work
from ims3core.pipeline.graph import Graph, require_loaded_code
from ims3core.pipeline.repository import Repository
from ims3core.pipeline.stage import Stage
from ims3core.pipeline.workspace import Workspace, open_workspace


class ProjectAssembler:
    """That of the checkout in ``root``.

    Args:
        threads: CPU threads of a worker; ``gpus``: whether workers compute on GPUs.
        memory: bytes that a process of a stage takes at most, by address.
    """

    def __init__(
        self, root: Path, params: Params, graph: Graph, *, threads: int, gpus: bool, memory: Mapping[str, float]
    ) -> None:  # fmt: skip
        self.root, self.params, self.threads, self.gpus, self.memory = root, params, threads, gpus, memory
        self.nodes = {node.address: node for node in graph.nodes}
        self.repository = Repository(root)
        self._held: dict[str, tuple[contextlib.ExitStack, Workspace]] = {}
        self._seconds: dict[str, float] = defaultdict(float)

    def begin(self, address: str) -> Work | None:
        """The units of a stage that DVC calls changed, and whose workspace is now held, as jobs.

        A stage without units, or whose outputs DVC has kept, is left to it.

        Raises:
            HeldError: another run is at this stage; nothing is waited for, as that one may wait for what is held here.
            CodeChangedError: the code is not that of this process any more.
        """
        require_loaded_code()
        state = self.repository.state(address)
        if state == "same":
            return None
        if state == "kept":
            return Work(address, 0)
        stage = harness.open_node(self.nodes[address], self.params, self.root)
        names = [unit.name for unit in stage.units()]
        if not names:
            return Work(stage.label, 0)
        fingerprint = stage.fingerprint()
        with contextlib.ExitStack() as stack:
            workspace = stack.enter_context(open_workspace(self.root, stage.node.place, fingerprint, wait=False))
            missing = [name for name in names if not workspace.has(name)]
            self._held[address] = stack.pop_all(), workspace
        return Work(stage.label, len(names), self._jobs(stage, fingerprint, missing))

    def _jobs(self, stage: Stage, fingerprint: str, names: list[str]) -> list[Job]:
        """A unit each; as many as a worker makes on its threads; or all, in order or by processes of a launcher."""
        need: Need = "device" if self.gpus and stage.needs_network() or not self.gpus else "host"
        size = 1
        if type(stage).threads is not Stage.threads and not self.gpus:
            size = self.threads
        elif stage.ordered or (stage.sharing == "steps" and self.params.compute.launch):
            size = max(1, len(names))
        memory = self.memory.get(stage.node.address, 0.0)
        return [
            Job(
                stage.node.address, part, need, memory,
                (self.root, stage.node, fingerprint, part, self.threads, need),
            )
            for part in (names[first : first + size] for first in range(0, len(names), size))
        ]  # fmt: skip

    def finish(self, address: str) -> None:
        """Has DVC run the stage, which finds its units, or bring its outputs back.

        Raises:
            HeldError: another command of DVC is at it; it can be asked again.
        """
        require_loaded_code()
        self.release(address)
        self.repository.reproduce(address)
        if seconds := self._seconds.pop(address, 0.0):
            node = self.nodes[address]
            timings.add_workers(self.root, "-".join([node.stage, *map(str, node.arguments)]), seconds)

    def worked(self, address: str, seconds: float) -> None:
        """Notes that a worker took so long for a job."""
        self._seconds[address] += seconds

    def release(self, address: str) -> None:
        """Lets others into the workspace."""
        if (held := self._held.pop(address, None)) is not None:
            held[0].close()

    def stop(self) -> None:
        """Has whatever waits for another command of DVC give up."""
        self.repository.stopped.set()

    def missing(self, job: Job) -> list[str]:
        """The units of a job that are not there."""
        _, workspace = self._held[job.address]
        return [name for name in job.names if not workspace.has(name)]

    def state(self, job: Job) -> Any:
        """What there is of a job: its units, and checkpoints by their time."""
        _, workspace = self._held[job.address]
        latest = 0
        for path in workspace.path.glob("*begun*"):
            with contextlib.suppress(FileNotFoundError):  # its unit was finished meanwhile
                latest = max(latest, path.stat().st_mtime_ns)
        return self.missing(job), latest
