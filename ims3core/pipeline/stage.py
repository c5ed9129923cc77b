"""What a stage says of itself: its units, how one is made, how they become its outputs; and its fingerprint."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ims3core.base import files
from ims3core.base.distributed import ProcessGroup
from ims3core.params import Params
from ims3core.pipeline.graph import Node, overlap, value_at
from ims3core.pipeline.workspace import Workspace, content_digest, short_digest

if TYPE_CHECKING:
    from ims3core.base.compute import Machine

PRECISION = "compute.precision"


@dataclass(frozen=True)
class Unit:
    """One piece of a stage's work.

    Attributes:
        name: of a file or folder in the workspace; says what decides its content, beside the fingerprint.
        task: what :meth:`Stage.make` needs to know of it.
    """

    name: str
    task: Any = None


class Stage(ABC):
    """One stage of dvc.yaml for one row.

    Attributes:
        name: of the stage in dvc.yaml.
        amounts: declared parameters (patterns of dotted keys) that only say how many units there are, or that units
            are named by.
        named: declared dependencies (patterns of paths) whose content is in the names of the units.
        artifact: the kind in the manifest of the output; None: the output is no folder with a manifest.
        keeps_units: whether units stay after the output is there: for a larger grid or a cut that grows again, and
            because DVC deletes an output that it could not take into its cache, for example a full one.
        sharing: with several processes (``compute.launch``): ``alone``, one process does all; ``units``, they divide
            the units; ``steps``, all make every unit together.
        silent: no progress bar over units, because making one shows its own.
        ordered: units stand on one another, so that one worker makes them all, in their order.
    """

    name: ClassVar[str]
    amounts: ClassVar[tuple[str, ...]] = ()
    named: ClassVar[tuple[str, ...]] = ()
    artifact: ClassVar[str | None] = None
    keeps_units: ClassVar[bool] = True
    sharing: ClassVar[Literal["alone", "units", "steps"]] = "alone"
    silent: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    workspace: Workspace

    def __init__(self, params: Params, root: Path, node: Node, tree: Mapping[str, Any]) -> None:
        self.params, self.root, self.node, self._tree = params, root, node, tree
        self.stopped = threading.Event()

    def unread(self) -> Sequence[str]:
        """Declared dependencies (patterns) that this row does not open: they are declared for other rows."""
        return ()

    def units(self) -> list[Unit]:
        """The pieces of the work, in order; none where assembling does it all."""
        return []

    def make(self, unit: Unit, path: Path) -> None:
        """Writes one unit, a file or folder, to ``path``; what earlier units hold is at :meth:`unit_path`."""
        raise NotImplementedError(f"{self.name}: no unit to make")

    @abstractmethod
    def assemble(self, units: list[Unit]) -> dict[str, Any] | None:
        """Turns units into outputs, in ``self.workspace.output`` or the root; returns facts for the manifest."""

    def computes(self) -> bool:
        """Whether the row computes at the precision of the machine; torch is asked for it, and else is not loaded."""
        return True

    def needs_network(self) -> bool:
        """Whether making a unit asks a network, and so holds a GPU where there is one."""
        return True

    def threads(self) -> int:
        """How many units are made at once, on one CPU thread each; 1: one after the other on all of them."""
        return 1

    @cached_property
    def machine(self) -> Machine:
        """Where and how tensors are computed."""
        from ims3core.base import compute

        return compute.machine(**self.params.compute.model_dump())

    @property
    def processes(self) -> ProcessGroup:
        """The processes that run this stage together."""
        return self.machine.processes if self.sharing != "alone" and ProcessGroup.launched() else ProcessGroup()

    def input(self, path: str) -> Path:
        """A dependency, or a place inside one; what is not declared, or is in no fingerprint, cannot be opened."""
        declared = [dep for dep in self.node.data if overlap(dep, path)]
        if not declared:
            raise LookupError(f"{self.node.address}: {path} is no dependency in dvc.yaml")
        if all(any(fnmatchcase(dep, pattern) for pattern in self.unread()) for dep in declared):
            raise LookupError(f"{self.node.address}: {path} is said to be unread")
        return self.root / path

    def unit_path(self, unit: Unit) -> Path:
        """Where a unit that was made lies."""
        return self.workspace.path / unit.name

    @property
    def output(self) -> Path:
        """The first output in dvc.yaml."""
        return self.root / self.node.outs[0]

    @property
    def label(self) -> str:
        """The stage and its row, for progress and messages."""
        return f"{self.name} {self.node.row}".strip()

    def fingerprint(self, *, whole: bool = False) -> str:
        """What decides the content of units beside their names: everything that dvc.yaml declares but amounts.

        Values of parameters, digests of dependencies, digests of code; the precision as this machine resolves it.

        Args:
            whole: amounts and dependencies that units are named by, too: what decides the outputs.
        """
        values = {key: value_at(self._tree, key) for key in self.node.params}
        if not whole:
            values = {key: self._without_amounts(key, value) for key, value in values.items()}
        if PRECISION in values and self.computes():
            values[PRECISION] = self.machine.precision
        ignored = (*(() if whole else self.named), *self.unread())
        inputs = [dep for dep in self.node.data if not any(fnmatchcase(dep, pattern) for pattern in ignored)]
        if whole:  # what a stage does without, such as studies before the first one, need not be there
            inputs = [dep for dep in inputs if (self.root / dep).exists()]
        digests = {dep: artifact_digest(self.root / dep) for dep in inputs}
        return short_digest([self.node.address, values, digests, self.node.code_digest])

    def _without_amounts(self, key: str, value: Any) -> Any:
        """``value`` of ``key`` without what only says how many units there are."""
        if any(fnmatchcase(key, pattern) for pattern in self.amounts):
            return None
        if isinstance(value, dict):
            return {str(k): self._without_amounts(f"{key}.{k}", v) for k, v in value.items()}
        return value


def artifact_digest(path: Path) -> str:
    """A fingerprint of a dependency's content: of its manifest, of those in it, or of the files themselves."""
    if (path / files.MANIFEST).is_file():
        return files.sha256(path / files.MANIFEST)
    if path.is_file():
        return files.sha256(path)
    if not path.is_dir():
        return files.manifest_digest(path)  # says what is missing
    manifests = sorted(path.rglob(files.MANIFEST))
    if manifests:
        return short_digest([[one.relative_to(path).as_posix(), files.sha256(one)] for one in manifests])
    return content_digest(path)
