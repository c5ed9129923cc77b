"""The cache of VAE posteriors: written in pieces by any number of processes, read memory-mapped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ims3core.base import files

LABELS = "labels.safetensors"


@dataclass(frozen=True)
class Latents:
    """Cached VAE posteriors of the training images.

    Attributes:
        mean, std: (variants, N, C, H, W), scaled; variant 1 is the mirrored image where the profile flips.
        label: (N,) generator labels.
    """

    mean: torch.Tensor
    std: torch.Tensor
    label: torch.Tensor


def pieces(count: int, batch_size: int, variants: int) -> list[tuple[int, slice]]:
    """The fixed batches of encoding: (variant, rows)."""
    starts = range(0, count, batch_size)
    return [(v, slice(first, min(first + batch_size, count))) for v in range(variants) for first in starts]


def piece_name(number: int) -> str:
    """The file of a piece in the scratch directory."""
    return f"piece-{number:06d}.safetensors"


def join(source: Path, target: Path, parts: list[tuple[int, slice]], label: torch.Tensor, *, variants: int) -> None:
    """Copies all pieces in ``source`` into two array files in ``target``, one piece in memory at a time."""
    shape = files.read_tensors(source / piece_name(0))["mean"].shape[1:]
    arrays = {name: _mapped(target / f"{name}.npy", (variants, len(label), *shape)) for name in ("mean", "std")}
    for number, (variant, rows) in enumerate(parts):
        tensors = files.read_tensors(source / piece_name(number))
        for name, array in arrays.items():
            array[variant, rows] = tensors[name].numpy()
    for array in arrays.values():
        array.flush()
    files.write_tensors(target / LABELS, {"label": label})


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new float32 array file, mapped, its room taken: a full disk would kill who writes to a page without."""
    with files.naming(path):
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def subset(latents: Latents, chosen: torch.Tensor) -> Latents:
    """The latents of the images that ``chosen``, bool (N,), marks."""
    return Latents(latents.mean[:, chosen], latents.std[:, chosen], latents.label[chosen])


def read(directory: Path) -> Latents:
    """The latents written by :func:`join`, memory-mapped."""
    files.read_manifest(directory, "latents")
    mean, std = (torch.from_numpy(np.load(directory / f"{name}.npy", mmap_mode="c")) for name in ("mean", "std"))
    return Latents(mean, std, files.read_tensors(directory / LABELS)["label"])


def k_means(latents: torch.Tensor, clusters: int, *, restarts: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (clusters, dim) of scikit-learn's k-means of (N, ...), float64, and the cluster of each, int64 (N,)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    flat = latents.flatten(1).double().numpy()
    with threadpool_limits(limits=1):  # sums in another order would move the centres by their last bits
        fitted = KMeans(clusters, n_init=restarts, random_state=seed).fit(flat)
    return torch.from_numpy(fitted.cluster_centers_), torch.from_numpy(fitted.labels_).long()
