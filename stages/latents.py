"""latents: the VAE posterior of every training image, once, never again per step (paper 4.1)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data
from ims3core.base import compute, files
from ims3core.diffusion import autoencoder, dit_layout, latents
from ims3core.shell import code, progress, scratch

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/latents: mean and std, scaled by the VAE factor, per image and, if asked for, mirror image."""
    machine, wanted = compute.machine(**params.compute.model_dump()), params.latents
    inputs = [root / "data/real/train", root / "data/generator"]
    files.read_manifest(root / "data/generator", "generator")
    key = scratch.fingerprint(wanted.model_dump(), inputs, code.digest("latents"))
    with scratch.workspace(root, "latents", key, log.warning, machine.team) as work:
        if work.finished_elsewhere:
            return
        train = data.read_split(root / "data/real/train")
        classes = dit_layout.read_config(root / "data/generator/transformer").classes
        labels = data.generator_labels(root / "data/real/classes.json", classes)
        vae = autoencoder.read_autoencoder(root / "data/generator/vae").to(machine.device)
        variants = 1 + wanted.flip
        pieces = latents.pieces(len(train.images), wanted.batch_size, variants)
        for number in progress.track(machine.team.mine(len(pieces)), label="latents"):
            path = work.path / latents.piece_name(number)
            if not path.is_file():
                variant, rows = pieces[number]
                images = train.images[rows]
                mean, std = autoencoder.encode(vae, images.flip(-1) if variant else images)
                files.write_tensors(path, {"mean": mean, "std": std})
        machine.team.barrier()
        if machine.team.leads:
            latents.join(work.path, work.staged, pieces, labels[train.class_index], variants=variants)
        work.publish(root / "data/latents", "latents", images=len(train.images), variants=variants)
