"""prepare: the data source becomes three disjoint splits and a class table (paper 5.1)."""

from __future__ import annotations

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ims3core import data
from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.data.decode import CHUNK
from ims3core.intake import classes, prepare, readers, splits
from ims3core.intake.listing import Listing
from ims3core.shell import progress
from ims3core.shell.errors import DataError

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/real: one folder per split, ``classes.json`` and a manifest."""
    wanted = params.data
    listing = readers.read(wanted, classes.listed(wanted.classes))
    table = classes.class_table(listing.names, wanted.classes, trained=params.generator.source == "train")
    listing = listing.restricted([row.name for row in table])
    for line in listing.warnings:
        log.warning("%s", line)
    if empty := [table[c].name for c in np.flatnonzero(np.bincount(listing.labels, minlength=len(table)) == 0)]:
        raise DataError(
            f"data.source {wanted.source}: class {', '.join(empty)} has no image, wanted at least one per split"
        )

    scratch, staged = root / "scratch" / "prepare-pixels", root / "scratch" / "prepare"
    pixels = scratch / "all.npy" if wanted.storage == "pixels" else None
    size = {"side": wanted.side, "channels": wanted.channels}
    try:
        digests, readable, sums = prepare.decode_listing(
            listing, pixels, **size, workers=params.compute.threads or len(os.sched_getaffinity(0)),
            skip_unreadable=wanted.skip_unreadable,
            progress=partial(progress.track, label="decoding", total=-(-len(listing.items) // CHUNK)),
        )  # fmt: skip
        readable = prepare.canonical_order(readable, listing.labels, digests)
        if twice := splits.contradictions(digests, listing.labels, readable):
            shown = ", ".join(" and ".join(listing.origins[row] for row in pair) for pair in twice[:2])
            log.warning("%d pictures have two labels, the same pixels in different classes: %s", len(twice), shown)
        members = splits.assign(
            listing.labels[readable], [digests[row] for row in readable], listing.names,
            brought=[listing.splits[row] for row in readable], seed=derive_seed(params.seed, "split"),
            validation_fraction=wanted.validation_fraction, test_fraction=wanted.test_fraction,
        )  # fmt: skip
        members = {name: readable[rows] for name, rows in members.items()}
        _check_sizes(params, listing, members)
        shutil.rmtree(staged, ignore_errors=True)
        for name, rows in members.items():
            if pixels is not None:
                prepare.write_pixels(staged / name, pixels, rows, listing.labels)
            else:
                prepare.write_index(staged / name, listing, digests, rows, listing.labels, **size)
            log.info("%s: %d images", name, len(rows))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    data.write_classes(staged / "classes.json", table)
    prepare.write_statistics(staged / data.STATISTICS, sums[members["train"]], side=wanted.side)
    skipped, leaked = len(listing.items) - len(readable), splits.leaks(digests, members)
    if leaked:
        log.warning("%d test images have the same pixels as a training or validation image", leaked)
    files.write_manifest(
        staged, "real", source=wanted.source, classes=len(table), **size, skipped=skipped,
        test_images_seen_in_training=leaked,
    )  # fmt: skip
    files.replace_directory(staged, root / "data" / "real")


def _check_sizes(params: Params, listing: Listing, members: dict[str, np.ndarray]) -> None:
    """Every split holds every class, and the training split at least IPC images of each."""
    ipc = max(params.eval.ipc)
    for split, rows in members.items():
        counts = np.bincount(listing.labels[rows], minlength=len(listing.names))
        name, smallest = listing.names[int(counts.argmin())], int(counts.min())
        if smallest == 0:
            raise DataError(f"data: class {name} has no {split} image, wanted at least one")
        if split == "train" and ipc > smallest:
            raise DataError(f"eval.ipc: {ipc} images per class are asked for, class {name} has {smallest} to train on")
