"""Pools of candidate images, and their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ims3core.base import files
from ims3core.base.records import Record, stale
from ims3core.base.schema import Index
from ims3core.data import ImageSet, IndexedImages
from ims3core.data.keys import EVERY_IPC, REAL_DRAW, CandidateKey
from ims3core.errors import ArtifactError

FEATURES = "features.safetensors"


@dataclass(frozen=True)
class Place:
    """The coordinates of all candidates of a pool: the fields of :class:`CandidateKey`, all int64 (N,)."""

    ipc: torch.Tensor
    draw: torch.Tensor
    class_index: torch.Tensor
    index: torch.Tensor

    def rows(self, draw: int, class_index: int, ipc: int = EVERY_IPC) -> torch.Tensor:
        """Row numbers of one class in one draw, ordered by ``index``; of images made for every IPC, or for ``ipc``."""
        chosen = (self.draw == draw) & (self.class_index == class_index)
        rows = torch.nonzero(chosen & ((self.ipc == EVERY_IPC) | (self.ipc == ipc))).flatten()
        return rows[self.index[rows].argsort()]


@dataclass(frozen=True)
class Pool:
    """Candidate images with their coordinates and seeds (-1 for real images), and latents of generated ones."""

    images: torch.Tensor | IndexedImages | ShardedTensors
    place: Place
    seed: torch.Tensor
    latents: ShardedTensors | None = None


@dataclass(frozen=True)
class CandidateBatch:
    """Images of a source, uint8 (B, channels, side, side), and the latents (B, ...) they were decoded from, if any."""

    images: torch.Tensor
    latents: torch.Tensor | None = None


def real_place(class_index: torch.Tensor) -> Place:
    """The coordinates of real training images: draw 0, numbered within each class in file order."""
    index = torch.empty_like(class_index)
    for c in class_index.unique().tolist():
        rows = torch.nonzero(class_index == c).flatten()
        index[rows] = torch.arange(len(rows))
    zeros = torch.zeros_like(class_index)
    return Place(zeros + EVERY_IPC, zeros + REAL_DRAW, class_index, index)


def write_shard(path: Path, batch: CandidateBatch, keys: list[CandidateKey], seeds: list[int]) -> None:
    """Writes the images of one shard with their coordinates and seeds."""
    places = torch.tensor(keys, dtype=torch.int64)
    tensors = {"images": batch.images, "seed": torch.tensor(seeds)}
    tensors |= dict(zip(CandidateKey._fields, places.T, strict=True))
    if batch.latents is not None:
        tensors["latents"] = batch.latents
    files.write_tensors(path, tensors)


def read_shard(path: Path) -> CandidateBatch:
    """The images of one shard, and their latents if it holds any."""
    tensors = files.read_tensors(path)
    return CandidateBatch(tensors["images"], tensors.get("latents"))


def concatenated(parts: list[CandidateBatch]) -> CandidateBatch:
    """Several batches one after the other."""
    latents = [part.latents for part in parts if part.latents is not None]
    images = torch.cat([part.images for part in parts])
    return CandidateBatch(images, torch.cat(latents) if len(latents) == len(parts) else None)


class ShardedTensors:
    """The tensor ``key`` of a generated pool, read from its shards on demand.

    Behaves like the tensor (N, ...) it stands for: ``len``, ``shape``, and indexing by a number, a slice or a
    tensor of row numbers.
    """

    def __init__(self, paths: list[Path], sizes: list[int], key: str, like: torch.Tensor) -> None:
        self._paths, self._ends, self._key, self._dtype = paths, torch.tensor(sizes).cumsum(0), key, like.dtype
        self.shape = torch.Size((sum(sizes), *like.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        rows = torch.as_tensor(rows)
        flat = rows.flatten()
        shard = torch.searchsorted(self._ends, flat, right=True)
        values = torch.empty(len(flat), *self.shape[1:], dtype=self._dtype)
        for number in shard.unique().tolist():
            inside = shard == number
            first = int(self._ends[number - 1]) if number else 0
            values[inside] = files.read_tensors(self._paths[number])[self._key][flat[inside] - first]
        return values if rows.ndim else values[0]


class PoolFacts(Record):
    """What the manifest of a pool says of it."""

    source: str
    indexed: bool
    images: Index
    precision: str | None = None


def read_pool(directory: Path, train: Callable[[], ImageSet]) -> Pool:
    """The pool in ``directory``; a real pool is an index into the training images, which ``train`` opens."""
    facts: PoolFacts = files.read_manifest(directory, "pool", PoolFacts)
    if facts.indexed:
        real = train()
        if facts.images != len(real.images):
            raise ArtifactError(f"{directory}: index of {facts.images} real images, found {len(real.images)}")
        return Pool(real.images, real_place(real.class_index), torch.full_like(real.class_index, -1))
    paths = shard_paths(directory)
    parts = [files.read_tensors(path) for path in paths]
    sizes = [len(part["images"]) for part in parts]
    place, seed = (
        [torch.cat([part[key] for part in parts]).clone() for key in CandidateKey._fields],
        torch.cat([part["seed"] for part in parts]).clone(),
    )
    latents = ShardedTensors(paths, sizes, "latents", parts[0]["latents"]) if "latents" in parts[0] else None
    return Pool(ShardedTensors(paths, sizes, "images", parts[0]["images"]), Place(*place), seed, latents)


def shard_paths(directory: Path) -> list[Path]:
    """The shards of a generated pool, in order."""
    return sorted(directory.glob("shard-*.safetensors"))


def shard_ends(directory: Path) -> list[int]:
    """The row number after the last of each shard of a generated pool."""
    from safetensors import safe_open

    sizes = []
    for path in shard_paths(directory):
        with safe_open(path, "pt") as stream:
            sizes.append(stream.get_slice("seed").get_shape()[0])
    return torch.tensor(sizes).cumsum(0).tolist()


def write_features(path: Path, features: torch.Tensor, place: Place) -> None:
    """Writes unit-norm features (N, dim) with the coordinates of their images."""
    files.write_tensors(path, {"features": features, **place.__dict__})


def read_features(directory: Path) -> tuple[torch.Tensor, Place]:
    """Features (N, dim) and coordinates written by :func:`write_features`.

    Raises:
        ArtifactError: naming a file that is missing, damaged or holds other tensors.
    """
    files.read_manifest(directory, "features")
    path = directory / FEATURES
    tensors = files.read_tensors(path)
    names = ("features", *CandidateKey._fields)
    if missing := [name for name in names if name not in tensors]:
        raise stale(path, f"holds {sorted(tensors)}, {missing[0]!r} is missing")
    features, *place = (tensors[name] for name in names)
    if features.ndim != 2 or any(values.shape != features.shape[:1] for values in place):
        shapes = [tuple(tensors[name].shape) for name in names]
        raise stale(path, f"shapes {shapes}, wanted (N, dim) and four times (N,)")
    return features, Place(*place)
