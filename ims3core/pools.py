"""Pools: the candidate images a selection chooses from, and their features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ims3core import files
from ims3core.data import ImageSet, IndexedImages
from ims3core.errors import ArtifactError
from ims3core.seeds import derive_seed

REAL_DRAW = 0


@dataclass(frozen=True)
class Place:
    """Where candidates stand: all int64 (N,); ``index`` counts within class and draw."""

    draw: torch.Tensor
    class_index: torch.Tensor
    index: torch.Tensor

    def rows(self, draw: int, class_index: int) -> torch.Tensor:
        """Row numbers of one class in one draw, ordered by ``index``."""
        rows = torch.nonzero((self.draw == draw) & (self.class_index == class_index)).flatten()
        return rows[self.index[rows].argsort()]


@dataclass(frozen=True)
class Pool:
    """Candidate images with their places and seeds; ``seed`` is -1 for real images."""

    images: torch.Tensor | IndexedImages | ShardedImages
    place: Place
    seed: torch.Tensor


def real_place(class_index: torch.Tensor) -> Place:
    """The places of real training images: draw 0, numbered within each class in file order."""
    index = torch.empty_like(class_index)
    for c in class_index.unique().tolist():
        rows = torch.nonzero(class_index == c).flatten()
        index[rows] = torch.arange(len(rows))
    return Place(torch.full_like(class_index, REAL_DRAW), class_index, index)


def candidate_seed(root_seed: int, purpose: str, draw: int, class_index: int, index: int) -> int:
    """The seed of one generated image; nothing else decides its noise."""
    return derive_seed(root_seed, f"candidate-{purpose}", draw, class_index, index)


def shards(*, draws: int, classes: int, per_class: int, batch_size: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """The fixed composition of shards: ``(draw, [(class_index, index), ...])`` with ``batch_size`` images each.

    Images are listed index by index, so that a larger ``per_class`` appends and changes no earlier shard
    but the last, incomplete one.
    """
    for draw in range(draws):
        members = [(c, i) for i in range(per_class) for c in range(classes)]
        for first in range(0, len(members), batch_size):
            yield draw, members[first : first + batch_size]


def write_shard(path: Path, images: torch.Tensor, draw: int, members: list[tuple[int, int]], seeds: list[int]) -> None:
    """Writes the images of one shard with their places and seeds."""
    places = torch.tensor(members, dtype=torch.int64)
    tensors = {
        "images": images,
        "draw": torch.full((len(members),), draw),
        "class_index": places[:, 0],
        "index": places[:, 1],
        "seed": torch.tensor(seeds),
    }
    files.write_tensors(path, tensors)


class ShardedImages:
    """The images of a generated pool, read from their shards when they are asked for.

    Behaves like the uint8 tensor (N, channels, side, side) it stands for: ``len``, ``shape``, and indexing by a
    number, a slice or a tensor of row numbers.
    """

    def __init__(self, paths: list[Path], sizes: list[int], shape: torch.Size) -> None:
        self._paths, self._ends = paths, torch.tensor(sizes).cumsum(0)
        self.shape = torch.Size((sum(sizes), *shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        rows = torch.as_tensor(rows)
        flat = rows.flatten()
        shard = torch.searchsorted(self._ends, flat, right=True)
        out = torch.empty(len(flat), *self.shape[1:], dtype=torch.uint8)
        for number in shard.unique().tolist():
            here = shard == number
            first = int(self._ends[number - 1]) if number else 0
            out[here] = files.read_tensors(self._paths[number])["images"][flat[here] - first]
        return out if rows.ndim else out[0]


def read_pool(directory: Path, train: ImageSet) -> Pool:
    """The pool in ``directory``; a real pool is an index into the ``train`` images."""
    facts = files.read_manifest(directory, "pool")
    if facts["source"] == "real":
        if facts["images"] != len(train.images):
            raise ArtifactError(f"{directory}: index of {facts['images']} real images, found {len(train.images)}")
        return Pool(train.images, real_place(train.class_index), torch.full_like(train.class_index, -1))
    paths = sorted(directory.glob("shard-*.safetensors"))
    parts = [files.read_tensors(path) for path in paths]
    sizes, shape = [len(part["images"]) for part in parts], parts[0]["images"].shape[1:]
    draw, class_index, index, seed = (
        torch.cat([part[key] for part in parts]).clone() for key in ("draw", "class_index", "index", "seed")
    )
    return Pool(ShardedImages(paths, sizes, shape), Place(draw, class_index, index), seed)


def write_features(path: Path, features: torch.Tensor, place: Place) -> None:
    """Writes unit-norm features (N, dim) with the places of their images."""
    files.write_tensors(path, {"features": features, **place.__dict__})


def read_features(directory: Path) -> tuple[torch.Tensor, Place]:
    """Features (N, dim) and places written by :func:`write_features`."""
    files.read_manifest(directory, "features")
    tensors = files.read_tensors(directory / "features.safetensors")
    return tensors["features"], Place(tensors["draw"], tensors["class_index"], tensors["index"])
