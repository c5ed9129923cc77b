"""centroids: the class centroids that S3 compares with (paper Eq. 8; Table 13 for generated ones)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data
from ims3core.base import files
from ims3core.base.seeds import generator
from ims3core.data import pools
from ims3core.subgroups.centroids import real_centroids

if TYPE_CHECKING:
    from ims3core.params import Params


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/centroids/<row>: one unit-norm centroid per class."""
    wanted = params.centroids[row]
    features, place = pools.read_features(root / "data/features" / wanted.pool)
    classes = data.read_classes(root / "data/real/classes.json")
    centroids = real_centroids(
        features, place.class_index, classes=len(classes), real_per_class=wanted.real_per_class,
        generator_for=partial(generator, params.seed, "centroid-images"),
    )  # fmt: skip
    staged = root / "scratch" / f"centroids-{row}"
    files.write_tensors(staged / "centroids.safetensors", {"centroids": centroids})
    files.write_manifest(staged, "centroids", pool=wanted.pool)
    files.replace_directory(staged, root / "data/centroids" / row)
