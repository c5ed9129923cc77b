"""latents: the VAE posterior of every training image, once, never again per step (paper 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import compute, data, files
from ims3core.diffusion import autoencoder

if TYPE_CHECKING:
    from ims3core.params import Params


def run(params: Params, root: Path) -> None:
    """Writes data/latents: mean and std, scaled by the VAE factor, per image and, if the profile flips, per mirror image."""
    machine = compute.machine(**params.compute.model_dump())
    train = data.read_split(root / "data/real/train")
    labels = torch.tensor([row.generator_label for row in data.read_classes(root / "data/real/classes.json")])
    files.read_manifest(root / "data/generator", "generator")
    vae = autoencoder.read_autoencoder(root / "data/generator/vae").to(machine.device)
    images = train.signed()
    variants = [images, images.flip(-1)] if params.latents.flip else [images]
    means, stds = zip(*(autoencoder.encode(vae, variant) for variant in variants), strict=True)
    staged = root / "scratch" / "latents"
    tensors = {"mean": torch.stack(means), "std": torch.stack(stds), "label": labels[train.class_index]}
    files.write_tensors(staged / "latents.safetensors", tensors)
    files.write_manifest(staged, "latents", images=len(images), variants=len(variants))
    files.replace_directory(staged, root / "data/latents")
