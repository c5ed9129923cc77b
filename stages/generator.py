"""generator: a class-conditional latent diffusion model as a DiTPipeline directory (paper 3, 4.1)."""

from __future__ import annotations

import logging
import math
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import data
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.base.seeds import generator as seeded
from ims3core.diffusion import autoencoder, checkpoints, latents, losses, pretrained, training
from ims3core.diffusion.dit import DiT, DitConfig, initialise
from ims3core.diffusion.generator import write_generator
from ims3core.diffusion.schedule import linear_schedule
from ims3core.shell import code, progress, scratch
from ims3core.shell.errors import ArtifactError

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Trains or fetches VAE and DiT; writes data/generator."""
    if params.generator.source == "train":
        _train(params, root)
    else:
        _fetch(params, root)


def _fetch(params: Params, root: Path) -> None:
    """Checks a pretrained generator against the data and writes it in our layout."""
    network, vae, source = pretrained.load(**params.generator.model_dump(exclude={"source"}))
    pretrained.check_side(network, vae, side=params.data.side, channels=params.data.channels)
    table = root / "data/real/classes.json"
    if max(row.generator_label for row in data.read_classes(table)) == network.config.classes:
        raise ArtifactError(
            f"generator.model: {source}: a table of {network.config.classes + 1} rows for labels up to "
            f"{network.config.classes}; its last row must be the null class, which guidance needs"
        )
    data.generator_labels(table, network.config.classes)
    staged = root / "scratch" / "generator-fetched"
    shutil.rmtree(staged, ignore_errors=True)
    write_generator(staged, network, vae)
    weights = sum(p.numel() for p in network.parameters())
    files.write_manifest(staged, "generator", source=source, weights=weights)
    files.replace_directory(staged, root / "data/generator")
    log.info("%s: %d weights, %d classes", source, weights, network.config.classes)


def _train(params: Params, root: Path) -> None:
    """Trains the VAE, then the DiT on its latents; what a killed run finished is kept."""
    wanted = params.generator
    machine = compute.machine(**params.compute.model_dump())
    train = data.read_split(root / "data/real/train")
    rows = data.read_classes(root / "data/real/classes.json")
    labels = torch.tensor([row.generator_label for row in rows])
    facts = [params.seed, wanted.model_dump(), machine.precision]
    key = scratch.fingerprint(facts, [root / "data/real/train"], code.digest("generator"))
    with scratch.workspace(root, "generator", key, log.warning) as work:
        if work.finished_elsewhere:
            return
        seed = derive_seed(params.seed, "generator")
        vae = _autoencoder(work.path, train, wanted, seed, machine)
        encoded = [autoencoder.encode(vae, batch) for batch in data.batches(train.images, 256)]
        mean, std = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        cached = latents.Latents(mean[None], std[None], labels[train.class_index])

        config = DitConfig(
            channels=wanted.vae.latent_channels, side=mean.shape[-1], patch=wanted.dit.patch, width=wanted.dit.width,
            depth=wanted.dit.depth, heads=wanted.dit.heads, classes=int(labels.max()) + 1,
        )  # fmt: skip
        network = DiT(config)
        initialise(network, seeded(seed, "dit-initial"))
        machine.trained(network, parts=network.compiled_parts, pays=wanted.steps >= compute.COMPILING_PAYS)
        state = training.start(dict(network.named_parameters()), lr=wanted.lr, weight_decay=0.0)
        checkpoints.load_checkpoint(work.path, state)
        weights = sum(p.numel() for p in network.parameters())
        log.info("DiT of %d weights on %s: step %d of %d", weights, machine, state.step, wanted.steps)
        training.run(
            network, state, linear_schedule(), cached, partial(losses.denoising_terms, variational=True),
            steps=wanted.steps, batch_size=wanted.batch_size, label_dropout=wanted.label_dropout,
            learning_rate=lambda step: wanted.lr * training.warmup_cosine(step, wanted.warmup_steps, wanted.steps),
            ema_decay=lambda step: min(wanted.ema_decay, (1 + step) / (10 + step)),
            grad_norm_every=0, seed=seed, autocast=machine.autocast,
            progress=partial(progress.track, label="generator", total=wanted.steps, done=state.step),
            on_step=partial(checkpoints.checkpoint_every, work.path, wanted.checkpoint_every),
        )  # fmt: skip
        network.load_state_dict(state.ema)
        write_generator(work.staged, network, vae)
        checkpoints.write_curve(work.staged / "curve.csv", state.curve)
        facts = {"source": wanted.source, "weights": weights, "precision": machine.precision}
        work.publish(root / "data/generator", "generator", **facts)


def _autoencoder(work: Path, train: data.ImageSet, wanted, seed: int, machine: compute.Machine):
    """The trained VAE; one that an interrupted run finished is read instead, one that it began goes on."""
    finished = work / "vae"
    if not (finished / files.MANIFEST).is_file():
        settings = wanted.vae.model_dump()
        vae = autoencoder.build_autoencoder(
            image_channels=train.images.shape[1], side=train.images.shape[-1], widths=settings.pop("widths"),
            latent_channels=settings.pop("latent_channels"), seed=derive_seed(seed, "vae-initial"),
        )  # fmt: skip
        pays = wanted.vae.steps >= compute.COMPILING_PAYS
        machine.trained(vae, parts=[vae.encoder, vae.decoder], pays=pays, convolves=True)
        state, begun = training.start(dict(vae.named_parameters()), lr=wanted.vae.lr, weight_decay=0.0), work / "begun"
        begun.mkdir(exist_ok=True)
        checkpoints.load_checkpoint(begun, state)
        log.info("VAE on %s: step %d of %d", machine.device, state.step, wanted.vae.steps)
        autoencoder.fit_autoencoder(
            vae, state, train.images, **settings, seed=seed,
            progress=partial(progress.track, label="VAE", total=wanted.vae.steps, done=state.step),
            on_step=partial(checkpoints.checkpoint_every, begun, wanted.checkpoint_every),
        )  # fmt: skip
        loss = state.curve[-1]["vae"]
        log.info("VAE: last loss %.5f, root mean squared error %.4f of 2", loss, math.sqrt(loss))
        vae.save_pretrained(finished, safe_serialization=True)
        files.write_manifest(finished, "vae")
        shutil.rmtree(begun)
    files.read_manifest(finished, "vae")
    return autoencoder.read_autoencoder(finished)
