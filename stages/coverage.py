"""coverage: how pools and distilled sets cover the real images (encoder), and how far from boundaries (teacher).

Held-out real images are measured like a set: whatever a pool reaches says something only beside what they reach.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ims3core import data
from ims3core.axes.diagnostics.coverage import boundary_distance
from ims3core.base import files
from ims3core.classifiers import encoder, teacher
from ims3core.data import distilled, pools
from ims3core.pipeline.stage import Stage, Unit
from ims3core.pipeline.workspace import short_digest

PLACE = ("kind", "name", "ipc", "draw")
MEASURES = ("precision", "recall", "density", "coverage", "boundary", "recognised")


@dataclass(frozen=True)
class Item:
    """What is measured: a pool, a drawn set or held-out real images; ``ipc`` is empty for what serves every IPC."""

    kind: str
    name: str
    ipc: Any
    draw: int
    folder: Path

    @property
    def place(self) -> list[Any]:
        """The first columns of its row."""
        return [self.kind, self.name, self.ipc, self.draw]


class Coverage(Stage):
    """Writes metrics/coverage.csv: one row per pool and draw, per drawn set of eval.methods, and of held-out images."""

    name = "coverage"
    amounts = ("pools", "guides", "eval.methods", "eval.ipc", "eval.draws")
    named = ("data/features", "data/distilled", "data/real/validation")

    @cached_property
    def real(self) -> torch.Tensor:
        """Features of the real images that are compared with, evenly spaced."""
        features, _ = pools.read_features(self.input("data/features/real"))
        return self.params.coverage.reference(features)

    @cached_property
    def radii(self) -> torch.Tensor:
        """Of the real images' balls, the same for all items."""
        return self.params.coverage.radii(self.real)

    @cached_property
    def encoder(self) -> encoder.Encoder:
        """The frozen encoder."""
        return encoder.read_encoder(self.input("data/encoder")).to(self.machine.device)

    @cached_property
    def teacher(self) -> teacher.Teacher:
        """The frozen teacher."""
        files.read_manifest(self.input("data/teacher"), "teacher")
        return teacher.read_teacher(self.input("data/teacher")).to(self.machine.device)

    @cached_property
    def items(self) -> list[Item]:
        """Everything that is measured."""
        items, grid = [], self.params.eval
        for name in self.params.pools:
            pool = self.params.pool(name)
            if not pool.source.indexed:
                folder, ipcs = self.input(f"data/features/{name}"), grid.ipc if pool.per_ipc else [""]
                items += [Item("pool", name, k, d, folder) for k in ipcs for d in range(grid.draws)]
        for name in grid.methods:
            folder = self.input(f"data/distilled/{name}")
            items += [
                Item("set", name, k, d, folder / f"ipc-{k}/draw-{d}") for k in grid.ipc for d in range(grid.draws)
            ]
        return [*items, Item("real", "validation", "", 0, self.input("data/real/validation"))]

    def units(self) -> list[Unit]:
        """One item each, named by its content: a set's manifest, a pool's own features, so that more draws are new."""
        real = files.manifest_digest(self.input("data/features/real"))
        return [
            Unit(f"{item.kind}-{short_digest([*item.place, self._content(item), real])}.json", item)
            for item in self.items
        ]

    @cached_property
    def held_out(self) -> data.ImageSet:
        """Real validation images, evenly spaced: no more than the smallest pool has, which so cannot reach less."""
        images = data.read_split(self.input("data/real/validation"))
        pools_of = [len(self._of_pool(item)) for item in self.items if item.kind == "pool"]
        count = min([len(images.images), self.params.coverage.real_images, *pools_of])
        rows = torch.arange(count) * len(images.images) // count
        return data.ImageSet(images.images[rows], images.class_index[rows])

    def _content(self, item: Item) -> str:
        if item.kind == "pool":
            return hashlib.sha256(self._of_pool(item).numpy().tobytes()).hexdigest()
        if item.kind == "real":
            return f"{len(self.held_out.images)} {files.manifest_digest(item.folder)}"
        return files.manifest_digest(item.folder)

    @cached_property
    def _opened(self) -> dict[Path, tuple[torch.Tensor, pools.Place]]:
        """The pool that was read last."""
        return {}

    def _of_pool(self, item: Item) -> torch.Tensor:
        """The features of one draw (and IPC) of a pool."""
        if item.folder not in self._opened:
            self._opened.clear()
            self._opened[item.folder] = pools.read_features(item.folder)
        features, place = self._opened[item.folder]
        rows = (place.draw == item.draw) & (place.ipc == (item.ipc or pools.EVERY_IPC))
        return features[torch.nonzero(rows).flatten()]

    def make(self, unit: Unit, path: Path) -> None:
        """The measures of one item."""
        item: Item = unit.task
        boundary: dict[str, float] = {}
        if item.kind == "pool":
            features = self._of_pool(item)
        else:
            chosen = self.held_out if item.kind == "real" else distilled.read_formed_set(item.folder)
            features, boundary = self._of_images(chosen)
        values = self.params.coverage.measure(self.real, features, self.radii) | boundary
        rounded = {name: round(value, 5) for name, value in values.items() if value == value}
        files.write_json(path, dict.fromkeys(MEASURES) | rounded)

    def _of_images(self, chosen: data.ImageSet) -> tuple[torch.Tensor, dict[str, float]]:
        """The features of images, and how far they are from the teacher's decision boundary."""
        with torch.inference_mode():
            batches = [batch.to(self.machine.device) for batch in data.batches(chosen.images, 256)]
            features = torch.cat([self.encoder.features(batch).cpu() for batch in batches])
            inputs = torch.cat([self.teacher.inputs(batch) for batch in batches])
            labels = chosen.class_index.to(self.machine.device)
            away = boundary_distance(inputs, labels, *self.teacher.head())
        return features, {"boundary": away.mean().item(), "recognised": 100 * (away > 0).float().mean().item()}

    def assemble(self, units: list[Unit]) -> None:
        """One row per item."""
        rows = []
        for unit in units:
            values = files.read_json(self.unit_path(unit))
            rows.append([*unit.task.place, *(values[name] for name in MEASURES)])
        files.write_csv(self.output, (*PLACE, *MEASURES), rows)
