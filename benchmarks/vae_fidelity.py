"""What the VAE costs: student accuracy on all real training images, as they are and through the VAE.

    python benchmarks/vae_fidelity.py [--seeds 3]

Needs data/real and data/generator (`dvc repro generator`). Scores are those of the split and protocol in params.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ims3core import data
from ims3core.base import compute
from ims3core.diffusion import autoencoder
from ims3core.params import load
from ims3core.students.cell import CellSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    params = load(Path("params.yaml"))
    machine = compute.machine(**params.compute.model_dump())
    train, held_out = (data.read_split(Path("data/real") / name) for name in ("train", params.eval.split))
    vae = autoencoder.read_autoencoder(Path("data/generator/vae"))
    latents = [autoencoder.encode(vae, batch)[0] for batch in data.batches(train.images, 256)]
    passed = data.ImageSet(torch.cat([autoencoder.decode(vae, mean) for mean in latents]), train.class_index)
    student, protocol = params.eval.students[0], params.eval.protocols[0]
    rules = params.protocols[protocol]
    spec = CellSpec(
        student, params.network(student), side=rules.side or train.images.shape[-1],
        classes=int(train.class_index.max()) + 1,
        statistics=data.read_statistics(Path("data/real") / data.STATISTICS),
        protocol=rules, augment=params.augmentation(protocol), options=params.network_options(student),
        machine=machine, root_seed=params.seed,
    )  # fmt: skip
    scores = {}
    for name, images in (("real images", train), ("through the VAE", passed)):
        runs = [spec.run(images, held_out, draw=0, seed=seed) for seed in range(seeds)]
        scores[name] = sum(run["last_top1"] for run in runs) / seeds
        print(f"{name:16s} {scores[name]:.2f} % ({seeds} seeds, {params.eval.split} split, last epoch)")
    print(f"loss             {scores['real images'] - scores['through the VAE']:.2f} points")


if __name__ == "__main__":
    main()
