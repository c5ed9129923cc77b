"""refine: the distilled sets of another row, optimised further."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import data
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.data import distilled
from ims3core.refinements import Start
from ims3core.shell import code, progress, scratch
from ims3core.shell.errors import NumericsError

if TYPE_CHECKING:
    from typing import Any

    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/distilled/<row> from data/distilled/<start>, and metrics/selection/<row>.json."""
    refined, refinement = params.refined[row], params.refinement(row)
    machine = compute.machine(**params.compute.model_dump())
    names = [entry.name for entry in data.read_classes(root / "data/real/classes.json")]
    facts = [params.seed, row, refinement.facts, params.augment.model_dump(), machine.precision, machine.compile]
    key = scratch.fingerprint(
        facts, [root / "data/real/train", root / refined.reads],
        code.digest("refine", **refined.model_dump()),
    )  # fmt: skip
    grid = [(ipc, draw) for ipc in params.eval.ipc for draw in range(params.eval.draws)]
    with scratch.workspace(root, f"refine-{row}", key, log.warning, machine.team, extent=grid) as work:
        if work.finished_elsewhere:
            return
        starts = [root / "data/distilled" / refined.start / f"ipc-{k}" / f"draw-{d}" for k, d in grid]
        parts = [f"ipc-{k}-draw-{d}-{files.manifest_digest(s)[:16]}" for (k, d), s in zip(grid, starts, strict=True)]
        shared: dict[Any, Any] = {}
        for n in machine.team.mine(len(grid)):
            if not work.has(parts[n]):
                label = f"{row} ipc {grid[n][0]} draw {grid[n][1]}"
                start = _start(params, root, starts[n], *grid[n], machine, label, shared)
                try:
                    images = refinement.module.refine(start, **refinement.values)
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


def _start(
    params: Params, root: Path, folder: Path, ipc: int, draw: int, machine: compute.Machine, label: str,
    shared: dict[Any, Any],
) -> Start:  # fmt: skip
    """One drawn set and what a refinement may look at; teacher and generator are opened when asked for."""
    classes = data.read_classes(root / "data/real/classes.json")

    def teacher() -> torch.nn.Module:
        from ims3core.students.teachers import read_teacher

        files.read_manifest(root / "data/teacher", "teacher")
        return read_teacher(root / "data/teacher").to(machine.device)

    def generator() -> tuple[torch.nn.Module, Any, torch.nn.Module]:
        from ims3core.diffusion import autoencoder, dit_layout
        from ims3core.diffusion.generator import read_schedule

        folder = root / "data/generator"
        files.read_manifest(folder, "generator")
        network = dit_layout.read_transformer(folder / "transformer").float().to(machine.device)
        vae = autoencoder.read_autoencoder(folder / "vae").to(machine.device)
        return network.eval().requires_grad_(False), read_schedule(folder), vae

    return Start(
        chosen=distilled.read_set(folder), latents=distilled.read_latents(folder),
        real=data.read_split(root / "data/real/train"),
        statistics=data.read_statistics(root / "data/real" / data.STATISTICS), augment=params.augment.model_dump(),
        seed=derive_seed(params.seed, "refine", draw, ipc), machine=machine, teacher=teacher, generator=generator,
        labels=torch.tensor([row.generator_label for row in classes]),
        names=tuple(row.name for row in classes),
        row_seed=derive_seed(params.seed, "refine"), shared=shared, progress=partial(progress.track, label=label),
    )  # fmt: skip
