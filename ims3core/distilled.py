"""Distilled sets: ordinary ImageFolder trees with a manifest of where every image came from."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch

from ims3core import files
from ims3core.data import ImageSet
from ims3core.errors import ArtifactError
from ims3core.pools import Pool


def clear(directory: Path) -> None:
    """Removes what an interrupted run left in ``directory``."""
    shutil.rmtree(directory, ignore_errors=True)


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
) -> None:
    """Writes ``train/<class>/*.png`` and then ``manifest.json``, whose presence means complete.

    Args:
        rows: per class, the row numbers in ``pool`` of its images.
        names: class names, which become folder names.
        groups: per class, the subgroup that was chosen, or None where the selection has no groups.
    """
    entries = []
    for class_index, chosen in enumerate(rows):
        for row, image in zip(chosen.tolist(), pool.images[chosen], strict=True):
            index, seed = int(pool.place.index[row]), int(pool.seed[row])
            name = f"train/{names[class_index]}/draw{draw}-{index:05d}.png"
            picture = files.png_bytes(image)
            files.write_bytes(directory / name, picture)
            entries.append(
                {
                    "file": name,
                    "class": names[class_index],
                    "class_index": class_index,
                    "index": index,
                    "seed": None if seed < 0 else seed,
                    "group": groups[class_index],
                    "sha256": hashlib.sha256(picture).hexdigest(),
                }
            )
    files.write_json(
        directory / files.MANIFEST, {"format": 1, "method": method, "ipc": ipc, "draw": draw, "images": entries}
    )


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
