"""refine: the distilled sets of another row, optimised further."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.data import distilled
from ims3core.shell import code, progress, scratch
from ims3core.shell.errors import NumericsError

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/distilled/<row> from data/distilled/<start>, and metrics/selection/<row>.json."""
    refined, refinement = params.refined[row], params.refinement(row)
    machine = compute.machine(**params.compute.model_dump())
    real, names = data.read_split(root / "data/real/train"), _names(root)
    key = scratch.fingerprint(
        [params.seed, row, refinement.facts, machine.precision], [root / "data/real/train"],
        code.digest("refine", **refined.model_dump()),
    )  # fmt: skip
    grid = [(ipc, draw) for ipc in params.eval.ipc for draw in range(params.eval.draws)]
    with scratch.workspace(root, f"refine-{row}", key, log.warning, machine.team, extent=grid) as work:
        if work.finished_elsewhere:
            return
        starts = [root / "data/distilled" / refined.start / f"ipc-{k}" / f"draw-{d}" for k, d in grid]
        parts = [f"ipc-{k}-draw-{d}-{files.manifest_digest(s)[:16]}" for (k, d), s in zip(grid, starts, strict=True)]
        for n in machine.team.mine(len(grid)):
            if not work.has(parts[n]):
                ipc, draw = grid[n]
                label = f"{row} ipc {ipc} draw {draw}"
                try:
                    images = refinement.module.refine(
                        distilled.read_set(starts[n]), real, names, seed=derive_seed(params.seed, "refine", draw, ipc),
                        machine=machine, progress=partial(progress.track, label=label), **refinement.values,
                    )  # fmt: skip
                except NumericsError as error:
                    raise NumericsError(f"refined.{row}, {label}: {error}; {starts[n]} is kept") from error
                with scratch.whole(work.path / parts[n]) as staged:
                    distilled.write_refined(staged, starts[n], images, names, method=row)
                log.info("%s: done", label)
        machine.team.barrier()
        if machine.team.leads:
            for (ipc, draw), part in zip(grid, parts, strict=True):
                work.use(part, f"ipc-{ipc}/draw-{draw}")
            report = {str(ipc): [{"draw": d} for d in range(params.eval.draws)] for ipc in params.eval.ipc}
            files.write_json(
                root / "metrics/selection" / f"{row}.json",
                {"method": row, "pool": refined.start, "selection": refined.by, "deterministic": False,
                 "cells": report},
            )  # fmt: skip
            work.move(root / "data/distilled" / row)
        machine.team.barrier()


def _names(root: Path) -> list[str]:
    return [entry.name for entry in data.read_classes(root / "data/real/classes.json")]
