"""prepare: the data source becomes three disjoint splits and a class table (paper 5.1)."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ims3core import data
from ims3core.base.seeds import derive_seed
from ims3core.data.decode import CHUNK
from ims3core.errors import DataError, some
from ims3core.ingest import agreement, classes, prepare, readers, splits
from ims3core.ingest.listing import Listing
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit

log = logging.getLogger(__name__)


class Prepare(Stage):
    """Writes data/real: one folder per split, ``classes.json`` and a manifest."""

    name = "prepare"
    artifact = "real"

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """Reads, decodes, divides and writes all images."""
        pixels = self.workspace.path / "all.npy" if self.params.data.storage == "pixels" else None
        try:
            return self._write(pixels)
        finally:
            if pixels is not None:
                pixels.unlink(missing_ok=True)

    def _write(self, pixels: Path | None) -> dict[str, Any]:
        """Writes splits and class table; pixels pass through the array file ``pixels``, if there is one."""
        section, output = self.params.data, self.workspace.output
        listing, table = self._listing()
        size = {"side": section.side, "channels": section.channels}
        digests, readable, sums = prepare.decode_listing(
            listing, pixels, **size, workers=self.params.compute.threads or len(os.sched_getaffinity(0)),
            skip_unreadable=section.skip_unreadable,
            progress=partial(progress.track, label="decoding", total=-(-len(listing.items) // CHUNK)),
        )  # fmt: skip
        members = self._members(listing, readable, digests)
        for name, rows in members.items():
            if pixels is not None:
                if listing.folder is not None:  # which file an image is stays known once it is decoded
                    prepare.write_origins(output / name, listing, digests, rows, listing.labels)
                prepare.write_pixels(output / name, pixels, rows, listing.labels)
            else:
                prepare.write_index(output / name, listing, digests, rows, listing.labels, **size)
            log.info("%s: %d images", name, len(rows))
        data.write_classes(output / "classes.json", table)
        prepare.write_statistics(output / data.STATISTICS, sums[members["train"]], side=section.side)
        leaked = splits.leaks(digests, members)
        if leaked:
            log.warning("%d test images have the same pixels as a training or validation image", leaked)
        return {
            "source": section.source, "classes": len(table), **size, "skipped": len(listing.items) - len(readable),
            "test_images_seen_in_training": leaked,
        }  # fmt: skip

    def _listing(self) -> tuple[Listing, list[data.ClassRow]]:
        """All images of the classes that are used, and the class table."""
        section = self.params.data
        listing = readers.read(section, classes.listed(section.classes))
        listing.names = classes.with_wordnet_ids(listing.names, section.classes)
        if section.classes is None:
            listing = agreement.without_unused(listing)
        trained = self.params.generator.source != "pretrained"
        place = f"data.path: {section.path}" if section.path else f"data.name: {section.name}"
        used = [listing.names[c] for c in np.unique(listing.labels)]
        if len(used) < 2 and section.classes is None:
            names = f", {used[0]!r}" if used else ""
            raise DataError(f"{place}: one class only{names}, wanted at least two{listing.hint}")
        table = classes.class_table(listing.names, section.classes, trained=trained, hint=listing.hint)
        if len(table) < 2:
            raise DataError(f"data.classes: {section.classes}: one class only, {table[0].name!r}, wanted at least two")
        listing = listing.restricted([row.name for row in table])
        for line in [*listing.warnings, *agreement.benchmark_warnings(listing)]:
            log.warning("%s", line)
        counts = np.bincount(listing.labels, minlength=len(table))
        if empty := [table[c].name for c in np.flatnonzero(counts == 0)]:
            raise DataError(
                f"{place}: {len(empty):,} of {len(table):,} classes have no image: {some(empty)}; wanted images of "
                "every class, or a list of the classes that have some in data.classes"
            )
        agreement.check_splits(listing)
        return listing, table

    def _members(self, listing: Listing, readable: np.ndarray, digests: list[str]) -> dict[str, np.ndarray]:
        """The rows of every split; each holds every class, and the training split IPC images of each."""
        section = self.params.data
        readable = prepare.canonical_order(readable, listing.labels, digests)
        if twice := splits.contradictions(digests, listing.labels, readable):
            pairs = ", ".join(" and ".join(listing.origins[row] for row in pair) for pair in twice[:2])
            log.warning("%d pictures have two labels, the same pixels in different classes: %s", len(twice), pairs)
        members = splits.assign(
            listing.labels[readable], [digests[row] for row in readable], listing.names,
            brought=[listing.splits[row] for row in readable], seed=derive_seed(self.params.seed, "split"),
            validation_fraction=section.validation_fraction, test_fraction=section.test_fraction,
            ipc=max(self.params.eval.ipc),
        )  # fmt: skip
        return {name: readable[rows] for name, rows in members.items()}
