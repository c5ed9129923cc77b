"""select: which candidates become the distilled set (paper Eq. 9-11), for every IPC and draw."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core import data
from ims3core.base import compute, files
from ims3core.data import distilled, pools
from ims3core.selections import Candidates
from ims3core.shell import code, scratch
from ims3core.subgroups.objective import set_terms

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.params.rows import Entry

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/distilled/<row>/ipc-<K>/draw-<d> as ImageFolder trees, and metrics/selection/<row>.json."""
    method, selection = params.methods[row], params.selection(row)
    names = [entry.name for entry in data.read_classes(root / "data/real/classes.json")]
    pool = pools.read_pool(root / "data/candidates" / method.pool, data.read_split(root / "data/real/train"))
    features, place = pools.read_features(root / "data/features" / method.pool)
    files.read_manifest(root / "data/centroids" / method.centroids, "centroids")
    stored = files.read_tensors(root / "data/centroids" / method.centroids / "centroids.safetensors")
    indexed = params.pool(method.pool).source.module.maker is None
    judged = getattr(selection.module, "JUDGED", False)
    inputs = ([root / "data/real/train"] if indexed else []) + ([root / "data/teacher"] if judged else [])
    key = scratch.fingerprint(
        [params.seed, row, selection.facts, names], inputs,
        code.digest("select", **method.model_dump()),
    )  # fmt: skip
    grid = [(ipc, draw) for ipc in params.eval.ipc for draw in range(params.eval.draws)]
    report: dict[str, list[dict[str, Any]]] = {}
    with scratch.workspace(root, f"select-{row}", key, log.warning, extent=grid) as work:
        if work.finished_elsewhere:
            return
        for ipc, draw in grid:
            rows = [place.rows(pools.REAL_DRAW if indexed else draw, c, ipc) for c in range(len(names))]
            if (need := selection.module.need(ipc, **selection.values)) is not None:
                rows = [own[:need] for own in rows]
            seen = Candidates(
                [features[own] for own in rows], names, stored["centroids"], real=partial(_real, root, len(names)),
                images=lambda c, rows=rows: pool.images[rows[c]], judge=_judge(params, root) if judged else None,
            )  # fmt: skip
            part = f"ipc-{ipc}-draw-{draw}-{_digest(seen, [pool.seed[own] for own in rows])}"
            if not work.has(part):
                _select(work.path / part, selection, seen, pool, rows, seed=params.seed, row=row, ipc=ipc, draw=draw)
            work.link(f"{part}/set", f"ipc-{ipc}/draw-{draw}")
            work.keep(part)
            report.setdefault(str(ipc), []).append(files.read_json(work.path / part / "report.json"))
        files.write_json(
            root / "metrics/selection" / f"{row}.json",
            {"method": row, "pool": method.pool, "selection": selection.name,
             "deterministic": selection.module.DETERMINISTIC, "cells": report},
        )  # fmt: skip
        work.move(root / "data/distilled" / row)
    images = len(names) * max(params.eval.ipc)
    log.info("%s: %d images per set and IPC %s, %d draws", row, images, params.eval.ipc, params.eval.draws)


def _select(
    folder: Path, selection: Entry, seen: Candidates, pool: pools.Pool, rows: list[torch.Tensor], *,
    seed: int, row: str, ipc: int, draw: int,
) -> None:  # fmt: skip
    """Selects one set and writes it, with the report on it, as one part."""
    choice = selection.module.select(seen, ipc=ipc, seed=seed, draw=draw, **selection.values)
    chosen = [own[i] for own, i in zip(rows, choice.indices, strict=True)]
    where = {"method": row, "ipc": ipc, "draw": draw}
    with scratch.whole(folder) as staged:
        distilled.write_set(staged / "set", pool, chosen, seen.names, **where, groups=choice.groups, tiles=choice.tiles)
        kept = [own[i] for own, i in zip(seen.features, choice.indices, strict=True)]
        terms = set_terms(torch.stack(kept), seen.real_centroids)
        files.write_json(staged / "report.json", {"draw": draw, **choice.report, **terms})


def _real(root: Path, classes: int) -> list[torch.Tensor]:
    """The features of the real training images, by class."""
    features, place = pools.read_features(root / "data/features/real")
    return [features[place.rows(pools.REAL_DRAW, c)] for c in range(classes)]


def _judge(params: Params, root: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """The teacher's logits of uint8 images, in batches."""
    from ims3core.students.teachers import read_teacher

    machine = compute.machine(**params.compute.model_dump())
    files.read_manifest(root / "data/teacher", "teacher")
    teacher = read_teacher(root / "data/teacher").to(machine.device)

    def judge(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([teacher(part.to(machine.device).float() / 255).cpu() for part in images.split(256)])

    return judge


def _digest(seen: Candidates, seeds: list[torch.Tensor]) -> str:
    """What decides a choice beside the parameters: everything the selection sees, and whose images they are."""
    result = hashlib.sha256()
    for tensor in (*seen.features, seen.real_centroids, *seeds):
        result.update(tensor.contiguous().numpy().tobytes())
    return result.hexdigest()[:16]
