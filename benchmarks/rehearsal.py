"""A rehearsal of a pretrained-generator profile before anything is downloaded: random weights, made-up images.

    python benchmarks/rehearsal.py FOLDER [--profile imagewoof] [--images 40] [-S candidates.per_class=50 ...]

Builds in FOLDER what the profile would read (class folders of noise JPEGs, a full-size DiT checkpoint in its authors'
format, Stable Diffusion's VAE and the profile's timm encoder, all with random weights), runs every stage there and
prints its time and memory beside the plan. Accuracies mean nothing; times, memory and errors do.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import timm
import yaml
from dit_xl import write_checkpoint
from PIL import Image
from safetensors.torch import save_file

from ims3core.diffusion.autoencoder import stable_diffusion_autoencoder
from ims3core.ingest.classes import benchmark_lists
from ims3core.pipeline.graph import read_stages

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (*(stage.replace("_", "-") for stage in read_stages()), "plan", "timings")


def build(folder: Path, profile: str, images: int, changes: list[str]) -> None:
    """Everything that the pipeline reads, in the formats in which people have it."""
    folder.mkdir(parents=True)
    tree = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    tree["data"]["path"] = "images"
    tree["generator"] |= {"model": "dit.pt", "revision": None, "vae": "vae"}
    tree["encoder"]["weights"] = "encoder.safetensors"
    for change in changes:
        key, value = change.split("=", 1)
        *path, last = key.split(".")
        section = tree
        for name in path:
            section = section[name]
        section[last] = yaml.safe_load(value)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    rng = np.random.default_rng(0)
    for wnid in benchmark_lists()[tree["data"]["classes"]]:
        for split, count in (("train", images), ("val", max(2, images // 10))):
            place = folder / "images" / split / wnid
            place.mkdir(parents=True)
            for number in range(count):
                buffer = io.BytesIO()
                coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                coarse.resize((500, 375)).save(buffer, "jpeg")
                (place / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
    write_checkpoint(folder)
    stable_diffusion_autoencoder().save_pretrained(folder / "vae")
    save_file(timm.create_model(tree["encoder"]["network"]).state_dict(), folder / "encoder.safetensors")


def run(folder: Path) -> None:
    """Every stage as a process of its own, then the plan of this machine and what was measured."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    for command in COMMANDS:
        subprocess.run([sys.executable, "-m", "ims3core", command], cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", default="imagewoof")
    parser.add_argument("--images", type=int, default=40, help="training images per class")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    build(arguments.folder, arguments.profile, arguments.images, arguments.changes)
    run(arguments.folder)


if __name__ == "__main__":
    main()
