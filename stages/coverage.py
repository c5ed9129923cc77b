"""coverage: how pools and distilled sets cover the real images (encoder), and how far from boundaries (teacher)."""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core import coverage, data, encoders
from ims3core.base import compute, files
from ims3core.data import distilled, pools
from ims3core.shell import code, progress, scratch
from ims3core.students import teachers

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)
COLUMNS = ("kind", "name", "ipc", "draw", "precision", "recall", "density", "coverage", "boundary", "recognised")


def run(params: Params, root: Path) -> None:
    """Writes metrics/coverage.csv: one row per pool and draw, and per drawn set of eval.methods."""
    wanted, machine = params.coverage, compute.machine(**params.compute.model_dump())
    measure = _Measure(params, root, machine)
    inputs = [root / "data/encoder", root / "data/teacher", root / "data/features/real"]
    key = scratch.fingerprint([wanted.model_dump(), machine.precision], inputs, code.digest("coverage"))
    items = _items(params, root)
    with scratch.workspace(root, "coverage", key, log.warning, extent=[item[:4] for item in items]) as work:
        if work.finished_elsewhere:
            return
        rows = []
        for item in progress.track(items, label="coverage"):
            part = f"{scratch.short([*item[:4], measure.content(*item)])}.json"
            if not work.has(part):
                files.write_json(work.path / part, measure(*item))
            work.keep(part)
            found = files.read_json(work.path / part)
            rows.append([*item[:4], *(found[name] for name in COLUMNS[4:])])
        files.write_csv(root / "metrics/coverage.csv", COLUMNS, rows)
        work.finish()


def _items(params: Params, root: Path) -> list[tuple[str, str, Any, int, Path]]:
    """(pool or set, name, IPC, draw, folder) of everything that is measured."""
    found: list[tuple[str, str, Any, int, Path]] = []
    grid = params.eval
    for name in params.pools:
        parts = params.pool(name)
        if parts.source.module.maker is not None:
            ipcs = grid.ipc if parts.per_ipc else [""]
            found += [("pool", name, k, d, root / "data/features" / name) for k in ipcs for d in range(grid.draws)]
    for name in grid.methods:
        place = root / "data/distilled" / name
        found += [("set", name, k, d, place / f"ipc-{k}/draw-{d}") for k in grid.ipc for d in range(grid.draws)]
    return found


class _Measure:
    """The measures of one item; what all items need is opened once."""

    def __init__(self, params: Params, root: Path, machine: compute.Machine) -> None:
        self.root, self.device, self.k = root, machine.device, params.coverage.k
        real, _ = pools.read_features(root / "data/features/real")
        kept = torch.arange(min(len(real), params.coverage.real_images)) * len(real)
        self.real = real[kept // min(len(real), params.coverage.real_images)]
        self.encoder = encoders.read_encoder(root / "data/encoder").to(self.device)
        files.read_manifest(root / "data/teacher", "teacher")
        self.teacher = teachers.read_teacher(root / "data/teacher").to(self.device)
        self.pools: dict[Path, tuple] = {}  # the pool that was read last

    @cached_property
    def reach(self) -> torch.Tensor:
        """Of the real images, the same for all items."""
        return coverage.radii(self.real, self.k)

    def content(self, kind: str, name: str, ipc: Any, draw: int, folder: Path) -> str:
        """What names an item's measures: a set's manifest, a pool's own features, so that more draws change nothing."""
        if kind == "pool":
            return hashlib.sha256(self._of_pool(ipc, draw, folder).numpy().tobytes()).hexdigest()
        return files.manifest_digest(folder)

    def _of_pool(self, ipc: Any, draw: int, folder: Path) -> torch.Tensor:
        """The features of one draw (and IPC) of a pool."""
        if folder not in self.pools:
            self.pools = {folder: pools.read_features(folder)}
        features, place = self.pools[folder]
        return features[torch.nonzero((place.draw == draw) & (place.ipc == (ipc or pools.EVERY_IPC))).flatten()]

    def __call__(self, kind: str, name: str, ipc: Any, draw: int, folder: Path) -> dict[str, float | None]:
        if kind == "pool":
            own, boundary = self._of_pool(ipc, draw, folder), {"boundary": None, "recognised": None}
        else:
            chosen = distilled.read_set(folder)
            with torch.inference_mode():
                batches = [batch.to(self.device) for batch in data.batches(chosen.images, 256)]
                own = torch.cat([self.encoder.features(batch).cpu() for batch in batches])
                inputs = torch.cat([self.teacher.inputs(batch) for batch in batches])
                away = coverage.boundary_distance(inputs, chosen.class_index.to(self.device), *self.teacher.head())
            boundary = {"boundary": away.mean().item(), "recognised": 100 * (away > 0).float().mean().item()}
        found = coverage.manifold_measures(self.real, own, k=self.k, reach=self.reach) | boundary
        return {key: None if value is None or value != value else round(value, 5) for key, value in found.items()}
