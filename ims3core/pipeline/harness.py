"""The stage harness: runs one row of a stage, whatever the stage is.

Everything around its units is done here, once for all stages: the row of dvc.yaml, the workspace with its lock, what is
there already, kills and resumes, the way units are run, the final move, the log of times.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from ims3core.base import files
from ims3core.params import Params
from ims3core.pipeline import executors
from ims3core.pipeline.graph import Graph, Node, loaded_code
from ims3core.pipeline.stage import Stage
from ims3core.pipeline.timings import timed
from ims3core.pipeline.workspace import OUTPUT, Workspace, open_workspace


def find_stage(name: str) -> type[Stage]:
    """The class of a stage, which its chapter defines."""
    module = importlib.import_module(f"stages.{'students' if name == 'full_data' else name}")
    return next(
        value for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Stage) and vars(value).get("name") == name
    )  # fmt: skip


def open_stage(name: str, params: Params, root: Path, arguments: Sequence[object]) -> Stage:
    """The stage ``name`` of the row that ``arguments`` name, ready to run."""
    return open_node(Graph(params.tree).node(name, *arguments), params, root)


def open_node(node: Node, params: Params, root: Path) -> Stage:
    """The stage of one row, ready to run."""
    loaded_code()  # before more of it is loaded
    return find_stage(node.stage)(params, root, node, params.tree)


def run(name: str, params: Params, root: Path, arguments: Sequence[object] = ()) -> None:
    """Runs one row of a stage, and logs its time."""
    with timed(root, "-".join([name, *map(str, arguments)])):
        execute(open_stage(name, params, root, arguments))


def make_units(name: str, params: Params, root: Path, arguments: Sequence[object] = ()) -> None:
    """Makes the units of one row of a stage in a workspace that another process has locked; assembles nothing."""
    stage = open_stage(name, params, root, arguments)
    stage.workspace = Workspace.shared(root, stage.node.place, stage.fingerprint())
    executors.make_missing(stage, stage.units())


def execute(stage: Stage) -> None:
    """Makes the units of a stage that are missing, and assembles its outputs."""
    units, processes = stage.units(), stage.processes
    names = [unit.name for unit in units]
    extent, fingerprint = [names, stage.fingerprint(whole=True)], stage.fingerprint()
    with open_workspace(stage.root, stage.node.place, fingerprint, extent=extent, processes=processes) as workspace:
        if workspace.already_published:
            return
        stage.workspace = workspace
        executors.make_missing(stage, units)
        processes.barrier()
        if processes.is_main:
            with files.naming(stage.output):
                facts = stage.assemble(units)
            if stage.artifact is not None:
                files.write_manifest(workspace.output, stage.artifact, **(facts or {}))
            moved = (workspace.path / OUTPUT).is_dir()
            workspace.publish(stage.output if moved else None, names if stage.keeps_units else [])
        processes.barrier()
