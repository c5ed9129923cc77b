"""select: which candidates become the distilled set (paper Eq. 9-11), for every IPC and draw."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ims3core import data
from ims3core.axes import selections
from ims3core.base import files
from ims3core.data import distilled, pools
from ims3core.pipeline.stage import Stage, Unit
from ims3core.s3.objective import set_terms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One set: its IPC and draw, the rows of the pool that each class chooses from, and what the selection sees."""

    ipc: int
    draw: int
    rows: list[torch.Tensor]
    candidates: selections.Candidates


class Select(Stage):
    """Writes data/distilled/<row>/ipc-<K>/draw-<d> as ImageFolder trees, and metrics/selection/<row>.json."""

    name = "select"
    amounts = ("eval.ipc", "eval.draws")
    named = ("data/candidates/*", "data/features/*", "data/centroids/*")

    @cached_property
    def selection(self) -> selections.Selection:
        """The row's entry."""
        return self.params.selection(self.node.row)

    def needs_network(self) -> bool:
        """Where the teacher ranks candidates."""
        return self.selection.needs_teacher

    @cached_property
    def indexed(self) -> bool:
        """Whether the candidates are the real images."""
        return self.params.pool(self.params.methods[self.node.row].pool).source.indexed

    def unread(self) -> list[str]:
        """The teacher, and the real images, are looked at by some selections only."""
        unread = [] if self.selection.needs_teacher else ["data/teacher"]
        return unread if self.indexed else [*unread, "data/real/train"]

    @cached_property
    def pool(self) -> pools.Pool:
        """The candidates' images."""
        folder = self.input(f"data/candidates/{self.params.methods[self.node.row].pool}")
        return pools.read_pool(folder, lambda: data.read_split(self.input("data/real/train")))

    @cached_property
    def names(self) -> list[str]:
        """Of the classes."""
        return [entry.name for entry in data.read_classes(self.input("data/real/classes.json"))]

    def units(self) -> list[Unit]:
        """One set each, named by everything that the selection sees of it."""
        method = self.params.methods[self.node.row]
        features, place = pools.read_features(self.input(f"data/features/{method.pool}"))
        folder = self.input(f"data/centroids/{method.centroids}")
        files.read_manifest(folder, "centroids")
        centroids = files.read_tensors(folder / "centroids.safetensors")["centroids"]
        grid = self.params.eval
        return [
            self._unit(ipc, draw, features, place, centroids) for ipc in grid.ipc for draw in range(grid.draws)
        ]  # fmt: skip

    def _unit(
        self, ipc: int, draw: int, features: torch.Tensor, place: pools.Place, centroids: torch.Tensor
    ) -> Unit:  # fmt: skip
        draws = pools.REAL_DRAW if self.indexed else draw
        needed = self.selection.candidates_needed(ipc)
        rows = [place.rows(draws, c, ipc)[:needed] for c in range(len(self.names))]
        candidates = selections.Candidates(
            [features[own] for own in rows], self.names, centroids, real=self.real_features,
            images=lambda c: self.pool.images[rows[c]], teacher=lambda images: self.teacher(images),
        )  # fmt: skip
        digest = self._digest(candidates, [self.pool.seed[own] for own in rows])
        return Unit(f"ipc-{ipc}-draw-{draw}-{digest}", Task(ipc, draw, rows, candidates))

    def _digest(self, candidates: selections.Candidates, seeds: list[torch.Tensor]) -> str:
        """What decides a choice beside the fingerprint: features, centroids, and whose images they are."""
        result = hashlib.sha256()
        for tensor in (*candidates.features, candidates.real_centroids, *seeds):
            result.update(tensor.contiguous().numpy().tobytes())
        if self.selection.needs_real_features:
            result.update(files.manifest_digest(self.input("data/features/real")).encode())
        return result.hexdigest()[:16]

    def real_features(self) -> list[torch.Tensor]:
        """The features of the real training images, by class."""
        features, place = pools.read_features(self.input("data/features/real"))
        return [features[place.rows(pools.REAL_DRAW, c)] for c in range(len(self.names))]

    @cached_property
    def teacher(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The teacher's logits of uint8 images, in batches."""
        from ims3core.classifiers.teacher import read_teacher

        folder = self.input("data/teacher")
        files.read_manifest(folder, "teacher")
        teacher, device = read_teacher(folder).to(self.machine.device), self.machine.device

        def logits(images: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return torch.cat([teacher(data.unit(part.to(device))).cpu() for part in images.split(256)])

        return logits

    def make(self, unit: Unit, path: Path) -> None:
        """One set, and the report on its choice."""
        task: Task = unit.task
        choice = self.selection.select(task.candidates, ipc=task.ipc, seed=self.params.seed, draw=task.draw)
        key = distilled.SetKey(self.node.row, task.ipc, task.draw)
        chosen = [own[i] for own, i in zip(task.rows, choice.indices, strict=True)]
        distilled.write_set(
            path / "set", self.pool, chosen, self.names, key=key, groups=choice.groups, tiles=choice.tiles
        )
        kept = [own[i] for own, i in zip(task.candidates.features, choice.indices, strict=True)]
        terms = set_terms(torch.stack(kept), task.candidates.real_centroids)
        files.write_json(path / "report.json", {"draw": task.draw, **choice.report, **terms})

    def assemble(self, units: list[Unit]) -> None:
        """All sets under ipc-<K>/draw-<d>, and what their choices reached."""
        cells: dict[str, list[dict]] = {}
        for unit in units:
            self.workspace.link(f"{unit.name}/set", f"ipc-{unit.task.ipc}/draw-{unit.task.draw}")
            cells.setdefault(str(unit.task.ipc), []).append(files.read_json(self.unit_path(unit) / "report.json"))
        method = self.params.methods[self.node.row]
        files.write_json(
            self.root / f"metrics/selection/{self.node.row}.json",
            {"method": self.node.row, "pool": method.pool, "selection": method.type,
             "deterministic": self.selection.deterministic, "cells": cells},
        )  # fmt: skip
        grid = self.params.eval
        log.info(
            "%s: %d images per set and IPC %s, %d draws",
            self.node.row, len(self.names) * max(grid.ipc), grid.ipc, grid.draws,
        )  # fmt: skip
