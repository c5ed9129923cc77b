"""DVC in this process: what it says of a stage, and having it run one. Outputs and dvc.lock are written here alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from ims3core.errors import ArtifactError, ClusterError, CodeChangedError, HeldError
from ims3core.pipeline.graph import require_loaded_code
from ims3core.pipeline.lockfile import record
from ims3core.pipeline.mending import mend_lock, restore_results

log = logging.getLogger(__name__)
State = Literal["same", "kept", "changed"]
Result = TypeVar("Result")
Cause = TypeVar("Cause", bound=BaseException)
PATIENCE = 300.0  # seconds that another command of DVC may hold its lock when a run begins
BRIEFLY = 5.0  # seconds until a stage is left for later


class Repository:
    """The DVC repository in ``root``, opened once: a stage then costs a fraction of a second instead of a start-up.

    The stages are read when it is opened: nothing else may change params.yaml or dvc.yaml while it is in use.

    Attributes:
        stopped: set where nothing shall be waited for any more.
    """

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self.stopped = threading.Event()
        logging.getLogger("dvc").setLevel(logging.WARNING)  # its lines about each stage; progress says the same
        try:
            self._repo = Repo(str(root))
            self._stages = self._patiently(self._read)
        except DvcException as error:
            raise ArtifactError(f"{root}: DVC cannot read this folder: {error}") from error

    def _read(self) -> dict[str, Any]:
        """The stages by their addresses, after what a run that was killed has left is mended."""
        with self._repo.lock:  # nobody else writes dvc.lock
            for line in (*restore_results(Path(self._repo.root_dir)), *mend_lock(Path(self._repo.tmp_dir))):
                log.info("%s", line)
            return {stage.addressing: stage for stage in self._repo.index.stages}

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

        return self._patiently(ask, BRIEFLY)

    def reproduce(self, address: str) -> None:
        """Has DVC run one stage, or bring its outputs back, and nothing else.

        Raises:
            ClusterError: the command of the stage failed; it has said why.
            HeldError: another command of DVC is at it.
            CodeChangedError: the code is not that which made the units, and perhaps ran: DVC has recorded nothing.
        """
        from dvc.exceptions import ReproductionError

        def run() -> None:
            self._repo.reproduce(targets=[address], single_item=True, repro_fn=_reproduce_checked)

        try:
            self._patiently(run, BRIEFLY)
        except ReproductionError as error:
            if (changed := caused_by(error, CodeChangedError)) is not None:
                raise changed from None
            raise ClusterError(f"{address}: {error.__cause__ or error}; see the lines above") from error

    def _patiently(self, call: Callable[[], Result], patience: float | None = None) -> Result:
        """What ``call`` returns, which is asked again while another command of DVC holds its lock or a path.

        Raises:
            HeldError: one still does after ``patience`` seconds.
        """
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        began = time.monotonic()
        while True:
            try:
                return call()
            except DvcException as error:
                if (locked := caused_by(error, LockError)) is None:
                    raise
                if time.monotonic() - began > (PATIENCE if patience is None else patience):
                    raise HeldError(f"DVC: {str(locked).partition('If there are no')[0].strip()}") from error
                if self.stopped.wait(0.5):
                    raise ClusterError("the run was ended while another command of DVC held its lock") from error


def _reproduce_checked(stage: Any, **options: Any) -> Any:
    """Runs a stage as DVC does. Digests of what it reads are taken before and after the command, and recorded last.

    Each time they were taken the code is looked at: so what is recorded is never that of code which did not run.
    """
    save_deps = stage.save_deps

    def save_deps_checked(*arguments: Any, **more: Any) -> None:
        save_deps(*arguments, **more)
        require_loaded_code()

    stage.save_deps = save_deps_checked
    if (done := stage.reproduce(**options)) is not None:
        record(stage)
    return done


def caused_by(error: BaseException | None, kind: type[Cause]) -> Cause | None:
    """``error``, or the first of what it was raised from, that is of ``kind``."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
