"""features: every image of a pool through the frozen encoder (paper 4.2)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ims3core import data
from ims3core.base import files
from ims3core.classifiers.encoder import Encoder, read_encoder
from ims3core.data import pools
from ims3core.pipeline.stage import Stage, Unit


class Features(Stage):
    """Writes data/features/<row>: unit-norm features of all images of the pool, with their places."""

    name = "features"
    named = ("data/real/train", "data/candidates/*")
    artifact = "features"
    sharing = "units"

    @cached_property
    def folder(self) -> Path:
        """The pool's."""
        return self.input(f"data/candidates/{self.node.row}")

    @cached_property
    def pool(self) -> pools.Pool:
        """The images."""
        return pools.read_pool(self.folder, lambda: data.read_split(self.input("data/real/train")))

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder, opened with the first unit."""
        return read_encoder(self.input("data/encoder")).to(self.machine.device)

    def units(self) -> list[Unit]:
        """A shard each, or a batch of the real images."""
        pool, shards, size = self.pool, pools.shard_paths(self.folder), self.params.features.batch_size
        if not shards:
            train = files.manifest_digest(self.input("data/real/train"))[:16]
            starts = range(0, len(pool.images), size)
            return [Unit(f"real-{train}-{first}.safetensors", slice(first, first + size)) for first in starts]
        ends = pools.shard_ends(self.folder)
        listed = files.read_json(self.folder / files.MANIFEST, files.Manifest).files
        names = [f"{listed[path.name].sha256[:32]}.safetensors" for path in shards]
        rows = [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
        return [Unit(name, part) for name, part in zip(names, rows, strict=True)]

    def make(self, unit: Unit, path: Path) -> None:
        """The features (n, dim) of some rows of the pool."""
        with torch.inference_mode():
            parts = [
                self.encoder.features(part.to(self.machine.device))
                for part in data.batches(self.pool.images[unit.task], self.params.features.batch_size)
            ]
        files.write_tensors(path, {"features": torch.cat(parts)})

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """All features, in the order of the pool."""
        features = torch.cat([files.read_tensors(self.unit_path(unit))["features"] for unit in units])
        pools.write_features(self.workspace.output / "features.safetensors", features, self.pool.place)
        return {"images": len(features), "dim": features.shape[1]}
