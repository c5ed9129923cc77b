"""Whether the splits of a source and its class table agree, before anything is decoded."""

from __future__ import annotations

import numpy as np

from ims3core.errors import DataError, some
from ims3core.ingest.classes import benchmark_lists, spelled_alike, with_wordnet_ids
from ims3core.ingest.listing import Listing

# Training and test images of fastai's own split, and of ILSVRC's for the same classes (their training and validation).
FASTAI = {"imagenette": ((9469, 3925), (12_894, 500)), "imagewoof": ((9025, 3929), (12_454, 500))}


def without_unused(listing: Listing) -> Listing:
    """The listing without the classes that have no image in any split, and with a warning about them."""
    counts = np.bincount(listing.labels, minlength=len(listing.names))
    unused = [listing.names[c] for c in np.flatnonzero(counts == 0)]
    if not unused:
        return listing
    used = listing.restricted([listing.names[c] for c in np.flatnonzero(counts)])
    used.warnings = [
        *listing.warnings,
        f"{len(unused):,} of {len(listing.names):,} classes have no image and are left out: {some(unused)}",
    ]
    return used


def check_splits(listing: Listing) -> None:
    """Raises a DataError for classes that some splits have images of and others have not.

    The message shows a class of that split whose name differs in capitals, blanks or the spelling of accents only.
    """
    splits = np.array(listing.splits)
    present = {
        split: set(np.unique(listing.labels[splits == split]).tolist()) for split in dict.fromkeys(listing.splits)
    }
    for split, labels in present.items():
        if absent := sorted(set().union(*present.values()) - labels):
            others = " and ".join(other for other in present if other != split and absent[0] in present[other])
            here = [listing.names[c] for c in sorted(labels)]
            alike = spelled_alike(listing.names[absent[0]], here)
            hint = f"; is it the class {alike!r} there, spelled otherwise?" if alike else ""
            raise DataError(
                f"data: class {some([listing.names[c] for c in absent])} has images in {others} and no image in the "
                f"{split} split{hint}; rename it, add its images, or leave it out by a list in data.classes"
            )


def benchmark_warnings(listing: Listing) -> list[str]:
    """What to know of fastai's imagenette2 and imagewoof2, told by names and counts: they are not ILSVRC's split."""
    counts = tuple(listing.splits.count(split) for split in ("train", "test"))
    for name, (fastai, ilsvrc) in FASTAI.items():
        if counts == fastai and set(with_wordnet_ids(listing.names, name)) == set(benchmark_lists()[name]):
            return [
                f"this is fastai's {name}2 with {fastai[0]:,} training and {fastai[1]:,} test images; ILSVRC has "
                f"{ilsvrc[0]:,} and {ilsvrc[1]:,} of these classes, with which published numbers are made; fastai's "
                "test images are largely training images of ILSVRC, which DiT and ImageNet encoders have seen"
            ]
    return []
