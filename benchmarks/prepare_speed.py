"""How fast `prepare` decodes: a folder of small JPEGs, in the page cache, on all cores.

    python benchmarks/prepare_speed.py FOLDER [--images 20000] [--side 64]

Prints images per second of decoding and the peak memory of this process, for a tenth of the images and for all.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageFilter

from ims3core.ingest import prepare
from ims3core.ingest.readers import imagefolder


def write_images(folder: Path, count: int, side: int) -> None:
    """Smooth random pictures in ten class folders."""
    stream = np.random.default_rng(0)
    for n in range(count):
        place = folder / f"class{n % 10}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(stream.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture.filter(ImageFilter.GaussianBlur(1)).save(place / f"{n:06d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    try:
        for count in (arguments.images // 10, arguments.images):
            folder = arguments.folder / str(count)
            write_images(folder, count, arguments.side)
            began = time.perf_counter()
            listing = imagefolder.read(SimpleNamespace(path=folder, splits=None))
            prepare.decode_listing(
                listing, arguments.folder / "all.npy", side=arguments.side, channels=3,
                workers=len(os.sched_getaffinity(0)), skip_unreadable=False,
            )  # fmt: skip
            took = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{count:6d} images: {count / took:6.0f} images/s, peak {peak:.0f} MiB", flush=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
