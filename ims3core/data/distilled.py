"""Distilled sets: ordinary ImageFolder trees with a manifest of where every image came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ims3core.base import files
from ims3core.data import ImageSet
from ims3core.data.pools import Pool
from ims3core.shell.errors import ArtifactError

LATENTS = "latents.safetensors"


def write_set(
    directory: Path,
    pool: Pool,
    rows: list[torch.Tensor],
    names: list[str],
    *,
    method: str,
    ipc: int,
    draw: int,
    groups: list[int | None],
    tiles: int = 1,
) -> None:
    """Writes ``train/<class>/*.png``, the latents where the pool has them, and then ``manifest.json``.

    Args:
        rows: per class, the row numbers in ``pool`` of its images; ``tiles`` of them for each image.
        names: class names, which become folder names.
        groups: per class, the subgroup that was chosen, or None where the selection has no groups.
    """
    entries = []
    for class_index, chosen in enumerate(rows):
        first = chosen[::tiles].tolist()
        for row, image in zip(first, tiled(pool.images[chosen], tiles), strict=True):
            index, seed = int(pool.place.index[row]), int(pool.seed[row])
            name = f"train/{names[class_index]}/draw{draw}-{index:05d}.png"
            origin = {"index": index, "seed": None if seed < 0 else seed, "group": groups[class_index]}
            entries.append(_write_image(directory, name, image, names, class_index, **origin))
    if pool.latents is not None and tiles == 1:
        files.write_tensors(directory / LATENTS, {"latents": pool.latents[torch.cat(rows)]})
    _finish(directory, entries, method=method, ipc=ipc, draw=draw)


def tiled(images: torch.Tensor, tiles: int) -> torch.Tensor:
    """Images (N, C, S, S) of which each ``tiles`` make one, put together from their top left corners."""
    if tiles == 1:
        return images
    across = round(tiles**0.5)
    size = images.shape[-1] // across
    corners = images[:, :, :size, :size].unflatten(0, (-1, across, across))  # (n, row, column, C, s, s)
    made = corners.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    out = torch.zeros(len(made), *images.shape[1:], dtype=images.dtype)
    out[:, :, : across * size, : across * size] = made
    return out


def write_refined(directory: Path, start: Path, images: torch.Tensor, names: list[str], *, method: str) -> None:
    """Writes a set whose ``images`` (N, channels, side, side), uint8, were made from those of the set ``start``."""
    manifest = files.read_json(start / files.MANIFEST)
    entries = []
    for entry, image in zip(manifest["images"], images, strict=True):
        origin = {key: entry[key] for key in ("index", "seed", "group")}
        entries.append(_write_image(directory, entry["file"], image, names, entry["class_index"], **origin))
    _finish(directory, entries, method=method, ipc=manifest["ipc"], draw=manifest["draw"])


def _write_image(directory: Path, name: str, image: torch.Tensor, names: list[str], class_index: int, **origin) -> dict:
    """Writes one PNG; returns its line of the manifest."""
    picture = files.png_bytes(image)
    files.write_bytes(directory / name, picture)
    digest = hashlib.sha256(picture).hexdigest()
    return {"file": name, "class": names[class_index], "class_index": class_index, **origin, "sha256": digest}


def _finish(directory: Path, entries: list[dict], **facts: object) -> None:
    """Writes the manifest, whose presence means complete."""
    files.write_json(directory / files.MANIFEST, {"format": 1, **facts, "images": entries})


def read_latents(directory: Path) -> torch.Tensor | None:
    """The latents of a set, in manifest order; None where its images were not drawn."""
    path = directory / LATENTS
    return files.read_tensors(path)["latents"] if path.is_file() else None


def read_set(directory: Path) -> ImageSet:
    """The images of a distilled set, in manifest order, each checked against its SHA-256."""
    entries = files.read_json(directory / files.MANIFEST)["images"]
    images = []
    for entry in entries:
        path = directory / entry["file"]
        image = files.read_png(path)
        if files.sha256(path) != entry["sha256"]:
            raise ArtifactError(f"{path}: content differs from the SHA-256 in {directory / files.MANIFEST}")
        images.append(image)
    return ImageSet(torch.stack(images), torch.tensor([entry["class_index"] for entry in entries]))
