"""prepare: the data source becomes three disjoint splits and a class table (paper 5.1)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data, files
from ims3core.errors import DataError
from ims3core.seeds import derive_seed

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/real: one folder per split, ``classes.json`` and a manifest with content hashes."""
    images, names = data.load_source(params.data.source)
    members = data.split(
        images,
        validation_fraction=params.data.validation_fraction,
        test_fraction=params.data.test_fraction,
        seed=derive_seed(params.seed, "split"),
    )
    smallest = data.smallest_class(images, members["train"], names)
    if (ipc := max(params.eval.ipc)) > smallest[1]:
        raise DataError(f"eval.ipc: {ipc} images per class are asked for, class {smallest[0]} has {smallest[1]} to train on")
    staged = root / "scratch" / "prepare"
    staged.mkdir(parents=True, exist_ok=True)
    for name, rows in members.items():
        part = data.ImageSet(images.images[rows], images.class_index[rows])
        data.write_split(staged / name, part)
        log.info("%s: %d images", name, len(rows))
    # Trained on these images, the generator's labels are our class indices.
    data.write_classes(staged / "classes.json", [data.ClassRow(i, name, i) for i, name in enumerate(names)])
    shape = tuple(images.images.shape[1:])
    files.write_manifest(staged, "real", source=params.data.source, classes=len(names), shape=shape)
    files.replace_directory(staged, root / "data" / "real")
