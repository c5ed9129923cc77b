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
import time
from pathlib import Path

import numpy as np
import timm
import yaml
from diffusers import AutoencoderKL
from dit_xl import write_checkpoint
from PIL import Image
from rich.console import Console
from rich.table import Table

from ims3core import timings
from ims3core.data.classes import benchmark_lists
from ims3core.params import load
from ims3core.planning import costs, rates
from ims3core.planning.table import duration

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "prepare", "generator", "encoder", "latents", "finetune", "candidates", "features", "centroids", "select",
    "students", "full-data", "report",
)  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 256,
}  # fmt: skip


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
    AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    from safetensors.torch import save_file

    save_file(timm.create_model(tree["encoder"]["network"]).state_dict(), folder / "encoder.safetensors")


def run(folder: Path) -> None:
    """Every stage, as a process of its own."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    for stage in STAGES:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ims3core", stage], cwd=folder, env=environment, check=True)
        print(f"{stage}: {time.perf_counter() - began:.1f} s with start-up", flush=True)


def compare(folder: Path) -> None:
    """The plan of this machine beside what was measured; a measured time excludes the start of its process."""
    os.chdir(folder)
    params = load(Path("params.yaml"))
    rows, count = costs.costs(params, Path())
    speed = rates.calibrate(params, Path(), count)
    print({name: f"{value / 1e12:.1f} TFLOP/s" for name, value in speed.items() if value > 1e9})
    planned = {row.stage: rates.seconds(row, speed) - rates.START_UP * row.processes for row in rows}
    table = Table("planned stage", "planned")
    for stage, took in planned.items():
        table.add_row(stage, duration(took))
    Console(width=100).print(table)
    for record in timings.read(Path()):
        gpu = f"{record['gpu_mib']:7d} MiB on the GPU" if "gpu_mib" in record else ""
        print(f"{record['seconds']:9.1f} s {record['peak_mib']:6d} MiB {gpu} {record['stage']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", default="imagewoof")
    parser.add_argument("--images", type=int, default=40, help="training images per class")
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    build(arguments.folder, arguments.profile, arguments.images, arguments.changes)
    run(arguments.folder)
    compare(arguments.folder)


if __name__ == "__main__":
    main()
