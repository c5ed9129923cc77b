"""generator: a class-conditional latent diffusion model as a DiTPipeline directory (paper 3, 4.1)."""

from __future__ import annotations

import json
import logging
import math
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from ims3core import data
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.base.seeds import generator as seeded
from ims3core.diffusion import autoencoder, checkpoints, latents, losses, pretrained, training
from ims3core.diffusion.dit import DiT, DitConfig, initialise
from ims3core.diffusion.generator import write_generator
from ims3core.diffusion.schedule import linear_schedule
from ims3core.errors import ArtifactError
from ims3core.params.sections import TrainedGenerator
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit
from ims3core.pipeline.workspace import short_digest

log = logging.getLogger(__name__)
VAE = Unit("vae")
WEIGHTS, CURVE = "ema.safetensors", "curve.json"


class Generator(Stage):
    """Trains or fetches VAE and DiT; writes data/generator."""

    name = "generator"
    artifact = "generator"
    amounts = tuple(f"generator.{key}" for key in TrainedGenerator.model_fields if key not in ("source", "vae"))
    silent = True
    ordered = True  # the DiT learns the latents of the VAE

    @property
    def seed(self) -> int:
        """Of everything random here."""
        return derive_seed(self.params.seed, "generator")

    @property
    def section(self) -> Any:
        """The parameters of a generator that is trained here."""
        return self.params.generator

    @cached_property
    def train(self) -> data.ImageSet:
        """The real training images."""
        return data.read_split(self.input("data/real/train"))

    def unread(self) -> list[str]:
        """A generator that exists is only compared with the class table; without one nothing is opened."""
        source = self.params.generator.source
        if source == "none":
            return ["data/real/train", "data/real/classes.json"]
        return ["data/real/train"] if source == "pretrained" else []

    def units(self) -> list[Unit]:
        """The VAE, then the DiT on its latents; nothing to train of a generator that exists.

        What the VAE does not know is in the name of the DiT: other steps of the DiT keep the VAE.
        """
        if self.params.generator.source != "train":
            return []
        own = self.section.model_dump(mode="json", exclude={"source", "vae", "checkpoint_every"})
        return [VAE, Unit(f"dit-{short_digest(own)}")]

    def make(self, unit: Unit, path: Path) -> None:
        """One trained network; an interrupted training goes on from its checkpoint."""
        begun = self.workspace.path / f"{unit.name}-begun"
        if unit == VAE:
            self._train_vae(begun, path)
        else:
            self._train_dit(begun, path)
        shutil.rmtree(begun, ignore_errors=True)

    def _train_vae(self, begun: Path, path: Path) -> None:
        settings, machine, images = self.section.vae, self.machine, self.train.images
        vae = autoencoder.build_autoencoder(
            image_channels=images.shape[1], side=images.shape[-1], widths=settings.widths,
            latent_channels=settings.latent_channels, seed=derive_seed(self.seed, "vae-initial"),
        )  # fmt: skip
        pays = settings.steps >= compute.COMPILING_PAYS
        machine.for_training(vae, parts=[vae.encoder, vae.decoder], pays=pays, convolves=True)
        state = training.start(dict(vae.named_parameters()), lr=settings.lr, weight_decay=0.0)
        checkpoints.load_checkpoint(begun, state)
        log.info("VAE on %s: step %d of %d", machine.device, state.step, settings.steps)
        states = autoencoder.fit_autoencoder(
            vae, state, images, steps=settings.steps, batch_size=settings.batch_size, lr=settings.lr,
            kl_weight=settings.kl_weight, seed=self.seed,
        )  # fmt: skip
        self._follow(states, "VAE", settings.steps, begun, state)
        loss = state.curve[-1]["vae"]
        log.info("VAE: last loss %.5f, root mean squared error %.4f of 2", loss, math.sqrt(loss))
        vae.save_pretrained(path, safe_serialization=True)
        files.write_manifest(path, "vae")

    def _train_dit(self, begun: Path, path: Path) -> None:
        settings, machine, seed = self.section, self.machine, self.seed
        cached = self._latents()
        network = DiT(self._dit_config(cached.mean.shape[-1]))
        initialise(network, seeded(seed, "dit-initial"))
        machine.for_training(network, parts=network.compiled_parts, pays=settings.steps >= compute.COMPILING_PAYS)
        state = training.start(dict(network.named_parameters()), lr=settings.lr, weight_decay=0.0)
        checkpoints.load_checkpoint(begun, state)
        weights = sum(p.numel() for p in network.parameters())
        log.info("DiT of %d weights on %s: step %d of %d", weights, machine, state.step, settings.steps)
        plan = training.TrainingPlan(
            steps=settings.steps, batch_size=settings.batch_size, label_dropout=settings.label_dropout, seed=seed,
            learning_rate=lambda step: settings.lr * training.warmup_cosine(
                step, settings.warmup_steps, settings.steps
            ),
            ema_decay=lambda step: min(settings.ema_decay, (1 + step) / (10 + step)),
        )  # fmt: skip
        objective = partial(losses.denoising_terms, variational=True)
        states = training.train(network, state, linear_schedule(), cached, objective, plan, machine)
        self._follow(states, "generator", settings.steps, begun, state)
        files.write_tensors(path / WEIGHTS, state.ema)
        # Not files.write_json, which sorts: the order of the columns must survive.
        files.write_bytes(path / CURVE, json.dumps(state.curve).encode())

    def _follow(self, states: Any, label: str, steps: int, begun: Path, state: training.State) -> None:
        """Runs a training with progress and checkpoints."""
        for current in progress.track(states, label=label, total=steps, done=state.step):
            checkpoints.checkpoint_every(begun, self.section.checkpoint_every, current)

    def _vae(self) -> Any:
        """The trained VAE."""
        files.read_manifest(self.unit_path(VAE), "vae")
        return autoencoder.read_autoencoder(self.unit_path(VAE))

    def _labels(self) -> torch.Tensor:
        """The generator label of every class."""
        return torch.tensor([row.generator_label for row in data.read_classes(self.input("data/real/classes.json"))])

    def _latents(self) -> latents.Latents:
        """The VAE posteriors of the training images."""
        vae = self._vae()
        encoded = [autoencoder.encode(vae, batch) for batch in data.batches(self.train.images, 256)]
        mean, std = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return latents.Latents(mean[None], std[None], self._labels()[self.train.class_index])

    def _dit_config(self, side: int) -> DitConfig:
        """The sizes of the DiT for latents of ``side``."""
        return DitConfig(
            channels=self.section.vae.latent_channels, side=side,
            classes=int(self._labels().max()) + 1, **self.section.dit.model_dump(),
        )  # fmt: skip

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """The pipeline directory, of what was trained here or elsewhere."""
        if self.params.generator.source == "none":
            return {"source": "none"}
        if not units:
            return self._fetch()
        vae, dit = self._vae(), self.unit_path(units[1])
        network = DiT(self._dit_config(self.params.data.side // 2 ** (len(self.section.vae.widths) - 1)))
        network.load_state_dict(files.read_tensors(dit / WEIGHTS))
        write_generator(self.workspace.output, network, vae)
        checkpoints.write_curve(self.workspace.output / "curve.csv", files.read_json(dit / CURVE, checkpoints.Curve))
        weights = sum(p.numel() for p in network.parameters())
        return {"source": "train", "weights": weights, "precision": self.machine.precision}

    def _fetch(self) -> dict[str, Any]:
        """Checks a pretrained generator against the data and writes it in our layout."""
        network, vae, source = pretrained.load(**self.params.generator.model_dump(exclude={"source"}))
        pretrained.check_side(network, vae, side=self.params.data.side, channels=self.params.data.channels)
        table = self.input("data/real/classes.json")
        if max(row.generator_label for row in data.read_classes(table)) == network.config.classes:
            raise ArtifactError(
                f"generator.model: {source}: a table of {network.config.classes + 1} rows for labels up to "
                f"{network.config.classes}; its last row must be the null class, which guidance needs"
            )
        data.generator_labels(table, network.config.classes)
        write_generator(self.workspace.output, network, vae)
        weights = sum(p.numel() for p in network.parameters())
        log.info("%s: %d weights, %d classes", source, weights, network.config.classes)
        return {"source": source, "weights": weights}
