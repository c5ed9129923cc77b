"""Does an image depend on its batch? The same 64 seeds sampled in batches of 1, 7 and 64.

    python benchmarks/batch_invariance.py [--precision fp32]

Needs data/generator (`dvc repro generator`). The noise is bit-equal by construction; pixels are compared here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ims3core.base import compute
from ims3core.diffusion import autoencoder, dit_layout, generator
from ims3core.diffusion.sampling import Denoiser, NoiseStreams
from ims3core.params import load

IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    precision = parser.parse_args().precision
    sampler = load(Path("params.yaml")).pool("dit").sampler
    machine = compute.machine(device="auto", precision=precision, compile=False, threads=0)
    network = dit_layout.read_transformer(Path("data/generator/transformer"))
    config, schedule = network.config, generator.read_schedule(Path("data/generator"))
    vae = autoencoder.read_autoencoder(Path("data/generator/vae"))
    denoiser = Denoiser(machine.for_inference(network), schedule, config.classes, machine.device, machine.dtype)
    shape = (config.channels, config.side, config.side)
    labels = torch.arange(IMAGES) % config.classes
    made = {}
    for size in (1, 7, IMAGES):
        parts = []
        for first in range(0, IMAGES, size):
            seeds = range(first, min(first + size, IMAGES))
            streams = NoiseStreams([torch.Generator().manual_seed(s) for s in seeds], shape)
            with torch.inference_mode():
                parts.append(sampler.sample(denoiser, labels[first : first + size], streams, None))
        made[size] = autoencoder.decode(vae, torch.cat(parts)).int()
    for size in (1, 7):
        difference = (made[size] - made[IMAGES]).abs()
        print(
            f"{precision}, batch {size} against {IMAGES}: {100 * (difference > 0).float().mean():.3f} % "
            f"of the pixels differ, at most by {int(difference.max())} of 255"
        )


if __name__ == "__main__":
    main()
