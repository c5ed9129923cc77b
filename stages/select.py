"""select: which candidates become the distilled set (paper Eq. 9-11), for every IPC and draw."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core import data, distilled, files, pools
from ims3core.selection.objective import set_terms
from ims3core.selection.registry import SELECTIONS, select

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/distilled/<row>/ipc-<K>/draw-<d> as ImageFolder trees, and metrics/selection/<row>.json."""
    method = params.methods[row]
    names = [entry.name for entry in data.read_classes(root / "data/real/classes.json")]
    pool = pools.read_pool(root / "data/candidates" / method.pool, data.read_split(root / "data/real/train"))
    features, place = pools.read_features(root / "data/features" / method.pool)
    files.read_manifest(root / "data/centroids" / method.centroids, "centroids")
    real_centroids = files.read_tensors(root / "data/centroids" / method.centroids / "centroids.safetensors")[
        "centroids"
    ]
    section = getattr(params, method.selection).model_dump()
    real = params.pools[method.pool].source == "real"
    staged = root / "scratch" / f"select-{row}"
    distilled.clear(staged)
    report: dict[str, list[dict[str, Any]]] = {}
    for ipc in params.eval.ipc:
        for draw in range(params.eval.draws):
            rows = [place.rows(pools.REAL_DRAW if real else draw, c) for c in range(len(names))]
            choice = select(
                method.selection, [features[r] for r in rows], ipc=ipc, real_centroids=real_centroids,
                seed=params.seed, draw=draw, names=names, **section,
            )  # fmt: skip
            chosen = [r[i] for r, i in zip(rows, choice.indices, strict=True)]
            distilled.write_set(
                staged / f"ipc-{ipc}" / f"draw-{draw}", pool, chosen, names,
                method=row, ipc=ipc, draw=draw, groups=choice.groups,
            )  # fmt: skip
            terms = set_terms(torch.stack([features[r] for r in chosen]), real_centroids)
            report.setdefault(str(ipc), []).append({"draw": draw, **choice.report, **terms})
    files.replace_directory(staged, root / "data/distilled" / row)
    deterministic = SELECTIONS[method.selection].deterministic
    facts = {"method": row, "pool": method.pool, "selection": method.selection, "deterministic": deterministic}
    files.write_json(root / "metrics/selection" / f"{row}.json", {**facts, "cells": report})
    log.info(
        "%s: %d images per set and IPC %s, %d draws",
        row,
        len(names) * max(params.eval.ipc),
        params.eval.ipc,
        params.eval.draws,
    )
