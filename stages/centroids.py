"""centroids: the class centroids that S3 compares with (paper Eq. 8; Table 13 for generated ones)."""

from __future__ import annotations

from functools import partial
from typing import Any

from ims3core import data
from ims3core.base import files
from ims3core.base.seeds import generator
from ims3core.data import pools
from ims3core.pipeline.stage import Stage, Unit
from ims3core.s3.centroids import real_centroids


class Centroids(Stage):
    """Writes data/centroids/<row>: one unit-norm centroid per class."""

    name = "centroids"
    artifact = "centroids"

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """The centroids of at most so many images of each class."""
        row = self.params.centroids[self.node.row]
        features, place = pools.read_features(self.input(f"data/features/{row.pool}"))
        classes = data.read_classes(self.input("data/real/classes.json"))
        centroids = real_centroids(
            features, place.class_index, classes=len(classes), real_per_class=row.real_per_class,
            generator_for=partial(generator, self.params.seed, "centroid-images"),
        )  # fmt: skip
        files.write_tensors(self.workspace.output / "centroids.safetensors", {"centroids": centroids})
        return {"pool": row.pool}
