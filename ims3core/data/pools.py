"""Pools: the candidate images a selection chooses from, and their features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.data import ImageSet, IndexedImages
from ims3core.shell.errors import ArtifactError

REAL_DRAW = 0
EVERY_IPC = 0


class Spot(NamedTuple):
    """Where one candidate stands; ``ipc`` is 0 where it serves every IPC, ``index`` counts within its class."""

    ipc: int
    draw: int
    class_index: int
    index: int


@dataclass(frozen=True)
class Place:
    """Where all candidates of a pool stand: the fields of :class:`Spot`, all int64 (N,)."""

    ipc: torch.Tensor
    draw: torch.Tensor
    class_index: torch.Tensor
    index: torch.Tensor

    def rows(self, draw: int, class_index: int, ipc: int = EVERY_IPC) -> torch.Tensor:
        """Row numbers of one class in one draw, ordered by ``index``: made for every IPC, or for ``ipc``."""
        here = (self.draw == draw) & (self.class_index == class_index)
        rows = torch.nonzero(here & ((self.ipc == EVERY_IPC) | (self.ipc == ipc))).flatten()
        return rows[self.index[rows].argsort()]


@dataclass(frozen=True)
class Pool:
    """Candidate images with their places and seeds (-1 for real images), and their latents where they were drawn."""

    images: torch.Tensor | IndexedImages | ShardedTensors
    place: Place
    seed: torch.Tensor
    latents: ShardedTensors | None = None


@dataclass(frozen=True)
class Made:
    """What a source made: uint8 images (B, channels, side, side), and the latents (B, ...) they were decoded from."""

    images: torch.Tensor
    latents: torch.Tensor | None = None


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source.

    Attributes:
        per_class: images of each class and draw, unless ``ipcs`` names some: then as many as the IPC.
        ipcs: ``(EVERY_IPC,)``, or the IPCs for which the pool is made one by one.
        batch_size: images of one call and one shard.
        purpose: pools of one purpose share their seeds.
        sampler, guide: entries of those axes, with their values.
        compiled: whether networks are compiled, for one batch size.
        blocks: classes that share one network; empty: all do. A shard holds classes of one block.
    """

    root_seed: int
    purpose: str
    draws: int
    classes: int
    per_class: int
    batch_size: int
    ipcs: tuple[int, ...] = (EVERY_IPC,)
    sampler: Any = None
    guide: Any = None
    compiled: bool = False
    blocks: tuple[tuple[int, ...], ...] = ()

    def count(self, ipc: int) -> int:
        """Images per class and draw."""
        return self.per_class if ipc == EVERY_IPC else ipc

    @property
    def fullest(self) -> int:
        """Images of the largest shard."""
        return min(self.batch_size, max(map(self.count, self.ipcs)) * max(map(len, self._blocks)))

    @property
    def _blocks(self) -> tuple[tuple[int, ...], ...]:
        return self.blocks or (tuple(range(self.classes)),)

    def seed(self, spot: Spot) -> int:
        """The seed of one image; nothing else decides its noise."""
        return candidate_seed(self.root_seed, self.purpose, spot.draw, spot.class_index, spot.index)

    def shards(self) -> Iterator[list[Spot]]:
        """The fixed composition of shards, ``batch_size`` images each.

        Images are listed index by index, so that a larger ``per_class`` appends and changes no earlier shard
        of its draw and block but the last, incomplete one.
        """
        for ipc in self.ipcs:
            for draw in range(self.draws):
                for block in self._blocks:
                    spots = [Spot(ipc, draw, c, i) for i in range(self.count(ipc)) for c in block]
                    for first in range(0, len(spots), self.batch_size):
                        yield spots[first : first + self.batch_size]


def wanted(
    parts: Any, *, seed: int, draws: int, ipc: list[int], classes: int, compiled: bool,
    blocks: tuple[tuple[int, ...], ...] = (),
) -> Wanted:  # fmt: skip
    """What a row of ``pools`` asks of its source.

    Args:
        parts: the row's entries (:class:`ims3core.params.rows.PoolParts`).
        ipc: the IPCs of the grid, for a pool that is made for each.
        blocks: classes that share one network.
    """
    return Wanted(
        seed, parts.row.purpose, draws, classes, parts.per_class, parts.batch_size,
        tuple(ipc) if parts.per_ipc else (EVERY_IPC,), parts.sampler, parts.guide, compiled, blocks,
    )  # fmt: skip


def candidate_seed(root_seed: int, purpose: str, draw: int, class_index: int, index: int) -> int:
    """The seed of one generated image."""
    return derive_seed(root_seed, f"candidate-{purpose}", draw, class_index, index)


def real_place(class_index: torch.Tensor) -> Place:
    """The places of real training images: draw 0, numbered within each class in file order."""
    index = torch.empty_like(class_index)
    for c in class_index.unique().tolist():
        rows = torch.nonzero(class_index == c).flatten()
        index[rows] = torch.arange(len(rows))
    zeros = torch.zeros_like(class_index)
    return Place(zeros + EVERY_IPC, zeros + REAL_DRAW, class_index, index)


def part_name(spots: list[Spot]) -> str:
    """The scratch file of a shard: what decides its content beside the key of the workspace."""
    first = spots[0]
    return f"ipc{first.ipc}-draw{first.draw}-class{first.class_index}-index{first.index}-{len(spots)}.safetensors"


def write_shard(path: Path, made: Made, spots: list[Spot], seeds: list[int]) -> None:
    """Writes the images of one shard with their places and seeds."""
    places = torch.tensor(spots, dtype=torch.int64)
    tensors = {"images": made.images, "seed": torch.tensor(seeds), **dict(zip(Spot._fields, places.T, strict=True))}
    if made.latents is not None:
        tensors["latents"] = made.latents
    files.write_tensors(path, tensors)


def read_made(path: Path) -> Made:
    """What one shard holds."""
    tensors = files.read_tensors(path)
    return Made(tensors["images"], tensors.get("latents"))


def joined(parts: list[Made]) -> Made:
    """Several makings one after the other."""
    latents = [part.latents for part in parts]
    return Made(torch.cat([part.images for part in parts]), None if None in latents else torch.cat(latents))


class ShardedTensors:
    """One kind of tensor of a generated pool, read from its shards when asked for.

    Behaves like the tensor (N, ...) it stands for: ``len``, ``shape``, and indexing by a number, a slice or a
    tensor of row numbers.
    """

    def __init__(self, paths: list[Path], sizes: list[int], kind: str, like: torch.Tensor) -> None:
        self._paths, self._ends, self._kind, self._dtype = paths, torch.tensor(sizes).cumsum(0), kind, like.dtype
        self.shape = torch.Size((sum(sizes), *like.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        rows = torch.as_tensor(rows)
        flat = rows.flatten()
        shard = torch.searchsorted(self._ends, flat, right=True)
        out = torch.empty(len(flat), *self.shape[1:], dtype=self._dtype)
        for number in shard.unique().tolist():
            here = shard == number
            first = int(self._ends[number - 1]) if number else 0
            out[here] = files.read_tensors(self._paths[number])[self._kind][flat[here] - first]
        return out if rows.ndim else out[0]


def read_pool(directory: Path, train: ImageSet) -> Pool:
    """The pool in ``directory``; a real pool is an index into the ``train`` images."""
    facts = files.read_manifest(directory, "pool")
    if facts["indexed"]:
        if facts["images"] != len(train.images):
            raise ArtifactError(f"{directory}: index of {facts['images']} real images, found {len(train.images)}")
        return Pool(train.images, real_place(train.class_index), torch.full_like(train.class_index, -1))
    paths = shard_paths(directory)
    parts = [files.read_tensors(path) for path in paths]
    sizes = [len(part["images"]) for part in parts]
    place, seed = (
        [torch.cat([part[key] for part in parts]).clone() for key in Spot._fields],
        torch.cat([part["seed"] for part in parts]).clone(),
    )
    latents = ShardedTensors(paths, sizes, "latents", parts[0]["latents"]) if "latents" in parts[0] else None
    return Pool(ShardedTensors(paths, sizes, "images", parts[0]["images"]), Place(*place), seed, latents)


def shard_paths(directory: Path) -> list[Path]:
    """The shards of a generated pool, in order."""
    return sorted(directory.glob("shard-*.safetensors"))


def shard_ends(directory: Path) -> list[int]:
    """Where each shard of a generated pool ends, as row numbers."""
    from safetensors import safe_open

    sizes = []
    for path in shard_paths(directory):
        with safe_open(path, "pt") as stream:
            sizes.append(stream.get_slice("seed").get_shape()[0])
    return torch.tensor(sizes).cumsum(0).tolist()


def write_features(path: Path, features: torch.Tensor, place: Place) -> None:
    """Writes unit-norm features (N, dim) with the places of their images."""
    files.write_tensors(path, {"features": features, **place.__dict__})


def read_features(directory: Path) -> tuple[torch.Tensor, Place]:
    """Features (N, dim) and places written by :func:`write_features`."""
    files.read_manifest(directory, "features")
    tensors = files.read_tensors(directory / "features.safetensors")
    return tensors["features"], Place(*(tensors[key] for key in Spot._fields))
