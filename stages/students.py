"""students: networks trained on a distilled set and scored on held-out real images (paper 5.1, 5.2)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data
from ims3core.base import compute, files
from ims3core.data import distilled
from ims3core.shell import code, progress, scratch
from ims3core.students import cell

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, method: str, ipc: int, student: str, protocol: str) -> None:
    """Writes metrics/cells/<method>-<ipc>-<student>-<protocol>.json: every draw and seed of one cell of a table."""
    folders = [root / "data/distilled" / method / f"ipc-{ipc}" / f"draw-{draw}" for draw in range(params.eval.draws)]
    _train_and_write(
        params, root, [distilled.read_set(folder) for folder in folders], folders, student=student, protocol=protocol,
        path=root / "metrics/cells" / f"{method}-{ipc}-{student}-{protocol}.json",
        facts={"method": method, "ipc": ipc},
    )  # fmt: skip


def run_full_data(params: Params, root: Path, student: str, protocol: str) -> None:
    """Writes metrics/full_data/<student>-<protocol>.json: the upper bound, trained on all real training images."""
    folder = root / "data/real/train"
    _train_and_write(
        params, root, [data.read_split(folder)], [folder], student=student, protocol=protocol,
        path=root / "metrics/full_data" / f"{student}-{protocol}.json",
        facts={"method": "full", "ipc": "full"},
    )  # fmt: skip


def _train_and_write(
    params: Params, root: Path, sets: list[data.ImageSet], inputs: list[Path], *,
    student: str, protocol: str, path: Path, facts: dict,
) -> None:  # fmt: skip
    """Trains every (draw, seed) of one cell and writes its file; runs of a killed or smaller grid are kept."""
    grid, wanted = params.eval, params.protocols[protocol]
    machine = compute.machine(**params.compute.model_dump())
    held_out = data.read_split(root / "data/real" / grid.split)
    statistics = data.read_statistics(root / "data/real" / data.STATISTICS)
    names = [row.name for row in data.read_classes(root / "data/real/classes.json")]
    recipe = cell.Recipe(
        student, params.network(student), side=wanted.side or held_out.images.shape[-1], classes=len(names),
        statistics=statistics, protocol=wanted.plan(params.network(student)) | {"name": protocol},
        augment=params.augmentation(protocol), norm=wanted.norm, options=params.network_options(student),
        machine=machine, root_seed=params.seed,
        teacher=_teacher(params, root, protocol, machine) if wanted.labels == "teacher" else None,
    )  # fmt: skip
    tracked = [params.seed, student, recipe.network, recipe.side, statistics, wanted.model_dump(), recipe.augment]
    tracked += [machine.precision, recipe.options]
    held = [root / "data/real" / grid.split, root / "data/labels" / protocol]
    key = scratch.fingerprint(tracked, held, code.digest("students"))
    digests = [files.manifest_digest(folder)[:16] for folder in inputs]
    pairs = [(draw, seed) for draw in range(len(sets)) for seed in range(grid.seeds)]
    with scratch.workspace(root, f"students-{path.stem}", key, log.warning, extent=[digests, grid.seeds]) as work:
        if work.finished_elsewhere:
            return
        parts = {(draw, seed): f"run-{draw}-{seed}-{digests[draw]}.json" for draw, seed in pairs}
        for part in parts.values():
            work.has(part)  # one that was changed is made again
        runs = cell.run_cell(
            recipe, sets, held_out, {pair: work.path / part for pair, part in parts.items()},
            progress=partial(progress.track, label=path.stem, total=len(parts)),
        )  # fmt: skip
        described = {**facts, "student": student, "protocol": protocol, "split": grid.split}
        described |= {"draws": len(sets), "seeds": grid.seeds, "precision": machine.precision}
        files.write_json(path, cell.summarise(runs, names, **described))
        for part in parts.values():
            work.keep(part)
        work.finish()
    mean = sum(run["last_top1"] for run in runs) / len(runs)
    log.info("%s: %.2f %% on %s (mean of %d runs, last epoch)", path.stem, mean, grid.split, len(runs))


def _teacher(
    params: Params, root: Path, protocol: str, machine: compute.Machine
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The teacher of a protocol, in the precision of its students; it sees images at the side it was trained at."""
    from ims3core.students.teachers import read_teacher

    files.read_manifest(root / "data/labels" / protocol, "teacher")
    teacher = read_teacher(root / "data/labels" / protocol).to(machine.device)
    if teacher.encoder.resize is None and params.protocols[protocol].side not in (None, params.data.side):
        teacher.encoder.resize = teacher.encoder.crop = params.data.side

    def ask(images: torch.Tensor) -> torch.Tensor:
        with machine.autocast():
            return teacher(images)

    return ask
