"""DVC in this process: what it says of a stage, and having it run one. It alone writes outputs and dvc.lock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from ims3core.errors import ArtifactError, ClusterError
from ims3core.pipeline.doctor import mend_lock, mend_results

log = logging.getLogger(__name__)
State = Literal["same", "kept", "changed"]
Result = TypeVar("Result")
PATIENCE = 300.0  # seconds that another command of DVC may hold its lock


class Repository:
    """The DVC repository in ``root``, opened once: a stage then costs a fraction of a second instead of a start-up.

    The stages are read when it is opened: nothing else may change params.yaml or dvc.yaml while it is in use.
    """

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.WARNING)  # its lines about each stage; progress says the same
        for line in mend_results(root):
            log.info("%s", line)
        try:
            self._repo = Repo(str(root))
            for line in mend_lock(Path(self._repo.tmp_dir)):  # of a run that was killed
                log.info("%s", line)
            self._stages = {stage.addressing: stage for stage in self._repo.index.stages}
        except DvcException as error:
            raise ArtifactError(f"{root}: DVC cannot read this folder: {error}") from error

    def ignore_outputs(self, addresses: Collection[str]) -> None:
        """Writes the .gitignore files in the order in which DVC alone would: whole folders are dependencies too."""
        from dvc.repo.reproduce import get_active_graph, plan_repro

        def write() -> None:
            with self._repo.lock, self._repo.scm_context:
                for stage in plan_repro(get_active_graph(self._repo.index.graph)):
                    for out in stage.outs if stage.addressing in addresses else ():
                        Path(out.fspath).parent.mkdir(parents=True, exist_ok=True)
                        out.ignore()

        self._patiently(write)

    def state(self, address: str) -> State:
        """Whether a stage is as dvc.lock says, is in the run cache, or has to run."""
        from dvc.stage.cache import RunCacheNotFoundError

        stage = self._stages[address]

        def ask() -> State:
            with self._repo.lock:
                if not stage.changed():
                    return "same"
                stage.save_deps()
                try:
                    self._repo.stage_cache.restore(stage, dry=True)
                except RunCacheNotFoundError:
                    return "changed"
                return "kept"

        return self._patiently(ask)

    def reproduce(self, address: str) -> None:
        """Has DVC run one stage, or bring its outputs back, and nothing else.

        Raises:
            ClusterError: the command of the stage failed; it has said why.
        """
        from dvc.exceptions import ReproductionError

        try:
            self._patiently(lambda: self._repo.reproduce(targets=[address], single_item=True))
        except ReproductionError as error:
            raise ClusterError(f"{address}: {error.__cause__ or error}; see the lines above") from error

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns, which is asked again while another command of DVC holds the lock."""
        from dvc.lock import LockError

        began = time.monotonic()
        while True:
            try:
                return call()
            except LockError as error:
                if time.monotonic() - began > PATIENCE:
                    raise ClusterError(f"DVC: {_first_line(error)}") from error
                time.sleep(0.5)


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0]
