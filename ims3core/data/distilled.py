"""Distilled sets: ordinary ImageFolder trees with a manifest of where every image came from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ims3core.base import files
from ims3core.base.records import Record, Sha256
from ims3core.base.schema import Count, Index
from ims3core.data import ImageSet
from ims3core.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ims3core.data.pools import Pool

LATENTS = "latents.safetensors"


class SetKey(NamedTuple):
    """Which distilled set: the row of params.yaml it belongs to, images per class, and number of the draw."""

    method: str
    ipc: int
    draw: int

    @property
    def folder(self) -> Path:
        """Its directory below the project's root."""
        return Path(f"data/distilled/{self.method}/ipc-{self.ipc}/draw-{self.draw}")


class SetImage(Record):
    """One image of a set: its file, its place in the pool, the seed and subgroup it came from, and its SHA-256."""

    file: str
    class_name: Annotated[str, Field(alias="class")]
    class_index: Index
    index: Index
    seed: int | None
    group: int | None
    sha256: Sha256


class SetManifest(Record):
    """The images of one distilled set, in order; ``digest`` is the SHA-256 of everything else in it.

    So that no other seed, group or label is read than was written. ``latents`` is the SHA-256 of the latents' file,
    ``factor`` is how many by how many smaller images each holds; 1, which is not written: it is one.
    """

    format: Literal[2] = 2
    method: str
    ipc: Count
    draw: Index
    images: Annotated[list[SetImage], Field(min_length=1)]
    latents: Sha256 | None
    factor: Count = 1
    digest: Sha256

    @model_validator(mode="after")
    def _is_whole(self) -> SetManifest:
        found = self.model_dump(by_alias=True, exclude={"digest"} | ({"factor"} if self.factor == 1 else set()))
        if _digest(found) != self.digest:
            raise ValueError(f"the content differs from its digest, {self.digest}")
        return self


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(files.json_bytes(content)).hexdigest()


def read_set_manifest(directory: Path) -> SetManifest:
    """The checked manifest of the set in ``directory``."""
    manifest: SetManifest = files.read_json(directory / files.MANIFEST, SetManifest)
    return manifest


def read_png(directory: Path, image: SetImage) -> bytes:
    """The PNG of one image of the set in ``directory``, checked against its SHA-256."""
    return _read_listed(directory, image.file, image.sha256)


def _read_listed(directory: Path, name: str, sha256: str) -> bytes:
    """The content of a file of the set in ``directory``, checked against its SHA-256."""
    content = files.read_bytes(directory / name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(f"{directory / name}: content differs from the SHA-256 in {directory / files.MANIFEST}")
    return content


def read_pixels(directory: Path, image: SetImage) -> np.ndarray:
    """The uint8 pixels (channels, side, side) of one image of the set in ``directory``, its SHA-256 checked."""
    return files.png_pixels(read_png(directory, image), directory / image.file)


def read_set(directory: Path) -> ImageSet:
    """The images of a distilled set as they are stored, in manifest order, each checked against its SHA-256."""
    import numpy as np
    import torch

    images = read_set_manifest(directory).images
    pixels = torch.from_numpy(np.stack([read_pixels(directory, image) for image in images]))
    return ImageSet(pixels, torch.tensor([image.class_index for image in images]))


def read_formed_set(directory: Path) -> ImageSet:
    """The images of a distilled set as they are trained on: those that each stored one holds."""
    from ims3core.data.formation import formed_set

    return formed_set(read_set(directory), read_set_manifest(directory).factor)


def read_pngs(directory: Path) -> list[tuple[SetImage, bytes]]:
    """The images of a set as others train on them, each a PNG: those that each stored one holds, numbered."""
    manifest = read_set_manifest(directory)
    if manifest.factor == 1:
        return [(image, read_png(directory, image)) for image in manifest.images]
    seen, tiles, found = read_formed_set(directory), manifest.factor**2, []
    for row, pixels in enumerate(seen.images[:]):
        image, png = manifest.images[row // tiles], files.png_bytes(pixels)
        name = f"{image.file.removesuffix('.png')}-{row % tiles}.png"
        found.append((image.model_copy(update={"file": name, "sha256": hashlib.sha256(png).hexdigest()}), png))
    return found


def read_latents(directory: Path) -> torch.Tensor | None:
    """The latents of a set, in manifest order; None where its images were not drawn."""
    digest = read_set_manifest(directory).latents
    if digest is None:
        return None
    _read_listed(directory, LATENTS, digest)
    return files.read_tensors(directory / LATENTS)["latents"]


def write_set(
    directory: Path, pool: Pool, rows: list[torch.Tensor], names: list[str], *, key: SetKey, groups: list[int | None],
    tiles: int = 1,
) -> None:  # fmt: skip
    """Writes ``train/<class>/*.png``, the latents where the pool has them, and then ``manifest.json``.

    Args:
        rows: per class, the row numbers in ``pool`` of its images; ``tiles`` of them for each image.
        names: class names, which become folder names.
        groups: per class, the subgroup that was chosen, or None where the selection has no groups.
    """
    import torch

    entries = []
    for class_index, chosen in enumerate(rows):
        first = chosen[::tiles].tolist()
        for row, image in zip(first, tiled(pool.images[chosen], tiles), strict=True):
            index, seed = int(pool.place.index[row]), int(pool.seed[row])
            origin = {
                "file": f"train/{names[class_index]}/draw{key.draw}-{index:05d}.png", "class": names[class_index],
                "class_index": class_index, "index": index, "seed": None if seed < 0 else seed,
                "group": groups[class_index],
            }  # fmt: skip
            entries.append(_write_image(directory, image, origin))
    if pool.latents is not None and tiles == 1:
        files.write_tensors(directory / LATENTS, {"latents": pool.latents[torch.cat(rows)]})
    write_set_manifest(directory, key, entries)


def write_refined(
    directory: Path, start: Path, images: torch.Tensor, names: list[str], *, method: str, factor: int = 1
) -> None:  # fmt: skip
    """Writes a set whose ``images`` (N, channels, side, side), uint8, were made from those of the set ``start``.

    Args:
        factor: how many by how many smaller images each of them holds.
    """
    manifest = read_set_manifest(start)
    entries = [
        _write_image(directory, image, before.model_dump(by_alias=True) | {"class": names[before.class_index]})
        for before, image in zip(manifest.images, images, strict=True)
    ]
    write_set_manifest(directory, SetKey(method, manifest.ipc, manifest.draw), entries, factor=factor)


def tiled(images: torch.Tensor, tiles: int) -> torch.Tensor:
    """Images (N, C, S, S) of which each ``tiles`` make one, put together from their top left corners."""
    if tiles == 1:
        return images
    from ims3core.data.formation import side_by_side

    across, side = round(tiles**0.5), images.shape[-1]
    size = side // across
    return side_by_side(images[:, :, :size, :size], across, side)


def _write_image(directory: Path, image: torch.Tensor, origin: dict[str, Any]) -> dict[str, Any]:
    """Writes one PNG; returns its entry of the manifest."""
    png = files.png_bytes(image)
    files.write_bytes(directory / origin["file"], png)
    return origin | {"sha256": hashlib.sha256(png).hexdigest()}


def write_set_manifest(directory: Path, key: SetKey, entries: list[dict[str, Any]], *, factor: int = 1) -> None:
    """Writes the manifest, whose presence means complete."""
    latents = files.sha256(directory / LATENTS) if (directory / LATENTS).is_file() else None
    content = {"format": 2, **key._asdict(), "images": entries, "latents": latents}
    content |= {"factor": factor} if factor != 1 else {}
    files.write_json(directory / files.MANIFEST, content | {"digest": _digest(content)})
