"""One iteration of every refinement on a set of 10 x IPC images of 224 px in 10 classes: seconds and peak memory.

    python benchmarks/refinements.py
    python benchmarks/refinements.py --row ims3_plus --side 256 --ipc 10 --classes 2

Settings of the profile imagenette, except for what it does before the first iteration (gradient matching's 1,500
training steps). Random weights: ConvNet and ResNetAP-10 of the profile, a ResNet-18 with batch norm as teacher,
DiT-S/2 on 28 x 28 latents with Stable Diffusion's VAE. Each refinement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from ims3core.axes.refinements import Start
from ims3core.base import compute
from ims3core.classifiers.encoder import Encoder
from ims3core.classifiers.teacher import Teacher
from ims3core.data import ImageSet
from ims3core.diffusion.autoencoder import stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.schedule import linear_schedule
from ims3core.params import Params
from ims3core.pipeline import profiles
from ims3core.students.networks import build_student

ONE = {  # rows of the profile, and what makes one iteration of them
    "dm": {"iterations": {1: 1}},
    "idc": {"outer": 1, "inner": 1, "pretrain_steps": 0},
    "sre2l": {"iterations": 1},
    "cao2": {"iterations": 1},
    "ims3_plus": {"iterations": {1: 1}, "networks": 1, "train_steps": {1: [0, 0]}},
}
IPC = {"ims3_plus": 1}  # else 10


def images_of(classes: int, per_class: int, side: int) -> ImageSet:
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (classes * per_class, 3, side, side), generator=noise, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(classes).repeat_interleave(per_class))


def start_for(profile: Params, machine: compute.Machine, *, classes: int, ipc: int, side: int) -> Start:
    statistics = ([0.5] * 3, [0.25] * 3)

    def teacher() -> Teacher:
        network = build_student("resnet18", classes=classes, channels=3, side=side, seed=0, norm="batch")
        return Teacher(Encoder(network.eval().requires_grad_(False), *statistics)).to(machine.device)

    def generator() -> tuple:
        config = DitConfig(side=side // 8, channels=4, patch=2, width=384, depth=12, heads=6, classes=classes)
        network = DiT(config).eval().requires_grad_(False).to(machine.device)
        return network, linear_schedule(), autoencoder()

    def autoencoder() -> AutoencoderKL:
        return stable_diffusion_autoencoder().to(machine.device).eval()

    return Start(
        chosen=images_of(classes, ipc, side), latents=torch.randn(classes * ipc, 4, side // 8, side // 8),
        real=images_of(classes, 64, side), statistics=statistics, augment=profile.augment, seed=0, machine=machine,
        teacher=teacher, generator=generator, autoencoder=autoencoder, labels=torch.arange(classes),
    )  # fmt: skip


def iteration(row: str, precision: str, **size: int) -> None:
    """Runs one iteration of the row's refinement and prints what it took."""
    profile = profiles.read(Path(__file__).parents[1], "imagenette")
    machine = compute.machine(device="auto", precision=precision, compile=False, threads=0)
    entry, start = profile.refinement(row), start_for(profile, machine, **size)
    one = entry.overridden(ONE[row], row)
    began = time.perf_counter()
    one.refine(start)
    took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    what = f"{size['classes']} classes x {size['ipc']} images of {size['side']} px"
    print(f"{row:10s} {entry.entry_name():24s} {what}: {took:6.1f} s, peak {peak:.2f} GiB ({machine})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ONE, help="this one alone, in this process")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--ipc", type=int, help="images per class; 10, for ims3_plus 1")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    asked = parser.parse_args()
    if asked.row:
        ipc = asked.ipc or IPC.get(asked.row, 10)
        iteration(asked.row, asked.precision, classes=asked.classes, ipc=ipc, side=asked.side)
        return
    for row in ONE:
        subprocess.run([sys.executable, __file__, "--row", row, *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
