"""students: networks trained on a distilled set and scored on held-out real images (paper 5.1, 5.2)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import compute, data, distilled, files, progress, scratch
from ims3core.students import cell

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, method: str, ipc: int, student: str) -> None:
    """Writes metrics/cells/<method>-<ipc>-<student>.json: every draw and seed of one cell of the result table."""
    folders = [root / "data/distilled" / method / f"ipc-{ipc}" / f"draw-{draw}" for draw in range(params.eval.draws)]
    _train_and_write(
        params, root, [distilled.read_set(folder) for folder in folders], folders, student=student,
        path=root / "metrics/cells" / f"{method}-{ipc}-{student}.json",
        facts={"method": method, "ipc": ipc},
    )  # fmt: skip


def run_full_data(params: Params, root: Path, student: str) -> None:
    """Writes metrics/full_data/<student>.json: the upper bound, trained on all real training images."""
    folder = root / "data/real/train"
    _train_and_write(
        params, root, [data.read_split(folder)], [folder], student=student,
        path=root / "metrics/full_data" / f"{student}.json",
        facts={"method": "full", "ipc": "full"},
    )  # fmt: skip


def _train_and_write(
    params: Params, root: Path, sets: list[data.ImageSet], inputs: list[Path], *, student: str, path: Path, facts: dict
) -> None:
    """Trains every (draw, seed) of one cell and writes its file; finished runs of a killed stage are kept."""
    settings = params.eval
    machine = compute.machine(**params.compute.model_dump())
    held_out = data.read_split(root / "data/real" / settings.split)
    statistics = data.read_statistics(root / "data/real" / data.STATISTICS)
    names = [row.name for row in data.read_classes(root / "data/real/classes.json")]
    protocol, augment = params.protocols[settings.protocol].model_dump(), params.augment.model_dump()
    tracked = [params.seed, student, settings.side, statistics, protocol, augment, machine.precision]
    key = scratch.fingerprint(tracked, [*inputs, root / "data/real" / settings.split])
    with scratch.workspace(root, f"students-{path.stem}", key, log.warning) as work:
        if work.finished_elsewhere:
            return
        runs = cell.run_cell(
            work.path, sets, held_out, student=student, classes=len(names), seeds=settings.seeds,
            side=settings.side or held_out.images.shape[-1],
            statistics=statistics, protocol=protocol, augment=augment,
            device=machine.device, precision=machine.precision, root_seed=params.seed,
            progress=partial(progress.track, label=path.stem, total=len(sets) * settings.seeds),
        )  # fmt: skip
        described = {**facts, "student": student, "protocol": settings.protocol, "split": settings.split}
        described |= {"draws": len(sets), "seeds": settings.seeds, "precision": machine.precision}
        files.write_json(path, cell.summarise(runs, names, **described))
        work.finish()
    mean = sum(run["last_top1"] for run in runs) / len(runs)
    log.info("%s: %.2f %% on %s (mean of %d runs, last epoch)", path.stem, mean, settings.split, len(runs))
