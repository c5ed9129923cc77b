"""How fast `prepare` reads a folder of JPEGs, in the page cache, on all cores.

    python benchmarks/prepare_speed.py FOLDER [--images 20000] [--side 64]
    python benchmarks/prepare_speed.py FOLDER --stage --images 1281167 --classes 1000 --side 16

Prints images per second and the peak memory, for a tenth of the images and for all: of decoding alone, or of the whole
stage, which lists, checks and digests every file and leaves the pictures where they are (`data.storage: index`).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageFilter

from ims3core.ingest import prepare
from ims3core.ingest.readers import imagefolder
from ims3core.pipeline import profiles

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 1000


def write_images(folder: Path, first: int, side: int, classes: int) -> None:
    """Smooth random pictures in class folders, a thousand from number ``first`` on."""
    stream = np.random.default_rng(first)
    for n in range(first, first + CHUNK):
        picture = Image.fromarray(stream.integers(0, 256, (side, side, 3), dtype=np.uint8))
        place = folder / f"class{n % classes:04d}"
        picture.filter(ImageFilter.GaussianBlur(1)).save(place / f"{n:07d}.jpg", quality=90)


def fill(folder: Path, count: int, side: int, classes: int) -> None:
    """At least ``count`` pictures."""
    for c in range(classes):
        (folder / f"class{c:04d}").mkdir(parents=True, exist_ok=True)
    with Pool(len(os.sched_getaffinity(0))) as pool:
        pool.starmap(write_images, [(folder, first, side, classes) for first in range(0, count, CHUNK)])


def decode(folder: Path, side: int) -> int:
    """Decodes a folder in this process and its readers."""
    listing = imagefolder.read(profiles.read(ROOT, "imagenette64").data.model_copy(update={"path": str(folder)}))
    prepare.decode_listing(
        listing, folder.parent / "all.npy", side=side, channels=3, workers=len(os.sched_getaffinity(0)),
        skip_unreadable=False,
    )  # fmt: skip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def stage(folder: Path, side: int) -> int:
    """Runs the stage on a folder, in a project of its own."""
    project, tree = folder.parent / f"{folder.name}-project", profiles.read(ROOT, "imagenette64").tree
    project.mkdir()
    tree["data"] |= {
        "source": "imagefolder",
        "path": str(folder),
        "splits": None,
        "classes": None,
        "side": side,
        "storage": "index",
    }
    tree["eval"]["ipc"] = [1]
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    shutil.copy(ROOT / "dvc.yaml", project)
    subprocess.run(
        [sys.executable, "-m", "ims3core", "prepare"], cwd=project, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--stage", action="store_true", help="the whole stage")
    arguments = parser.parse_args()
    try:
        for count in (arguments.images // 10, arguments.images):
            folder = arguments.folder / str(count)
            fill(folder, count, arguments.side, arguments.classes)
            began = time.perf_counter()
            peak = (stage if arguments.stage else decode)(folder, arguments.side) / 1024
            took, made = time.perf_counter() - began, -(-count // CHUNK) * CHUNK
            print(f"{made:7d} images: {took:.1f} s, {made / took:6.0f} images/s, peak {peak:.0f} MiB", flush=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
