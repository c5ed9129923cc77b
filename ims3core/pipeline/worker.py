"""What a worker runs: it says what it is, and makes units of a stage into the common workspace.

A worker stays warm: torch is imported, and what a stage has opened stays open as long as its units come. Between stages
everything that a stage has set for the whole process is set back, so that bytes do not depend on who made what before.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ims3core.base.allocator import give_back
from ims3core.errors import ClusterError, Ims3Error, some
from ims3core.params import Params, load
from ims3core.pipeline import executors, harness, launching
from ims3core.pipeline.graph import Node, loaded_code, project_digest, require_loaded_code
from ims3core.pipeline.stage import Stage, Unit
from ims3core.pipeline.workspace import Workspace

LOGS = Path("scratch/workers")


@dataclass(frozen=True)
class Facts:
    """What must be equal everywhere, and what a worker is.

    Attributes:
        code: digest of all source files that it has loaded; ``torch``: its version.
        precision: what ``compute.precision`` means on its machine.
        gpu: whether it computes on one.
        log: where it writes what it has to say.
    """

    code: str
    torch: str
    precision: str
    gpu: bool
    log: str

    def difference(self, other: Facts) -> str | None:
        """What of it would make other bytes than ``other``; None: nothing."""
        for name, what in {"code": "digest of the code", "torch": "version of torch", "precision": "precision"}.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                hint = "; set compute.precision to what the workers have" if name == "precision" else ""
                return f"{what}: found {mine}, wanted {theirs}{hint}"
        return None


def facts(params: Params, log: str = "") -> Facts:
    """Of this process."""
    import torch

    from ims3core.base import compute

    machine = compute.machine(**params.compute.model_dump())
    return Facts(project_digest(), torch.__version__, machine.precision, machine.device.type == "cuda", log)


def introduce(root: Path, token: str, threads: int, *, redirect: bool) -> Facts:
    """Of this worker, which from now on writes its log into ``root``.

    Args:
        token: a file that the asking process has just written into ``root``.
        redirect: also what libraries print.

    Raises:
        ClusterError: ``root`` is another folder here, or none.
    """
    loaded_code()  # before more of it is loaded
    importlib.import_module("stages")  # from where the rest of the code is, before the folder changes
    if not (root / LOGS / token).is_file():
        raise ClusterError(f"{root} is another folder on {socket.gethostname()}, wanted a common file system")
    os.chdir(root)
    log = root / LOGS / f"{socket.gethostname()}-{os.getpid()}.log"
    if str(log) not in _logs:
        _logs.append(str(log))
        _log_to(log, redirect)
    found = facts(with_threads(load(root / "params.yaml"), threads), str(log))
    _settle({"device": 1, "host": 1})
    return found


def _settle(resources: dict[str, float]) -> None:
    """Tells Dask what this worker has, so that runs that share it wait for each other, and that nobody profiles it.

    Looking at the stack of whatever runs, a hundred times a second, takes up to a fifth of the time of a training.
    """
    from distributed import get_worker
    from distributed.utils import sync

    own = get_worker()
    sync(own.loop, own.set_resources, **resources)
    if (profile := own.periodic_callbacks.get("profile")) is not None:
        own.loop.add_callback(profile.stop)


_logs: list[str] = []


def _log_to(log: Path, redirect: bool) -> None:
    stream = log.open("a", buffering=1, encoding="utf-8")
    faulthandler.enable(stream)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("ims3core").setLevel(logging.INFO)
    logging.getLogger("stages").setLevel(logging.INFO)
    if redirect or sys.stderr.isatty():
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(stream.fileno(), number)


def make_units(root: Path, node: Node, fingerprint: str, names: Sequence[str], threads: int, need: str) -> None:
    """Makes the units ``names`` of the stage ``node``, those that are not there.

    Args:
        need: ``device`` or ``host``; a worker with a GPU makes one unit of each kind at the same time.

    Raises:
        ClusterError: parameters or inputs are others here than ``fingerprint`` says, or know nothing of these units.
    """
    os.chdir(root)
    stage, units = _open(root, node, fingerprint, threads, need)
    if unknown := [name for name in names if name not in units]:
        raise ClusterError(
            f"{stage.label}: found no unit {some(unknown)} in the parameters on this worker; did something change "
            "params.yaml? Start the run again"
        )
    if stage.sharing == "steps" and (launcher := stage.params.compute.launch):
        launching.launch(launcher, [node.stage, *node.arguments], root, **{launching.UNITS_ONLY: "1"})
        return
    with executors.made_now(stage, [units[name] for name in names]) as made:
        for unit in made:
            log.info("%s: %s is made", stage.label, unit.name)


log = logging.getLogger(__name__)
_opened: dict[str, tuple[tuple[Path, str, str], Stage, dict[str, Unit]]] = {}
_before: list[Callable[[], None]] = []


def _open(root: Path, node: Node, fingerprint: str, threads: int, need: str) -> tuple[Stage, dict[str, Unit]]:
    """A stage with its units by name; of each kind the one that was opened last stays open."""
    key = root, node.address, fingerprint
    if _opened.get(need, (None,))[0] != key:
        _opened.pop(need, None)
        if need == "device":
            _set_back()
        stage = harness.open_node(node, with_threads(load(root / "params.yaml"), threads), root)
        require_loaded_code()  # opening it has loaded more
        if (found := stage.fingerprint()) != fingerprint:
            raise ClusterError(
                f"{stage.label}: parameters, inputs and code have the fingerprint {found} on this worker, "
                f"wanted {fingerprint}; did something change them?"
            )
        stage.workspace = Workspace.shared(root, node.place, fingerprint)
        _opened[need] = key, stage, {unit.name: unit for unit in stage.units()}
    return _opened[need][1:]


def with_threads(params: Params, threads: int) -> Params:
    """``params`` for a process of so many CPU threads, where they do not say how many."""
    own = params.compute.model_copy(update={"threads": params.compute.threads or threads})
    copy = params.model_copy(update={"compute": own})
    copy._tree, copy._rows = params._tree, params._rows
    return copy


def _set_back() -> None:
    """What a stage may have set for the whole process, as it was when the first one was opened."""
    import torch

    if not _before:
        flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        _before.append(lambda: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1]))
        fill: Any = torch.utils.deterministic
        filled = fill.fill_uninitialized_memory
        _before.append(lambda: setattr(fill, "fill_uninitialized_memory", filled))
    for set_back in _before:
        set_back()
    gc.collect()
    give_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if (inductor := sys.modules.get("torch._inductor.config")) is not None:
        inductor.freezing = False  # type: ignore[attr-defined]
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()  # code is compiled for the networks of one stage; on disk it is kept
    if (functorch := sys.modules.get("torch._functorch.config")) is not None:
        functorch.donated_buffer = True  # type: ignore[attr-defined]


def reason(error: BaseException) -> str:
    """One line about why a unit failed."""
    if isinstance(error, Ims3Error):
        return str(error)
    with contextlib.suppress(Exception):
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return type(error).__name__
