"""latents: the VAE posterior of every training image, once, never again per step (paper 4.1)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ims3core import data
from ims3core.base import files
from ims3core.data import ImageSet
from ims3core.diffusion import autoencoder, dit_layout, latents
from ims3core.pipeline.stage import Stage, Unit


class Latents(Stage):
    """Writes data/latents: mean and std, scaled by the VAE factor, per image and, if asked for, mirror image."""

    name = "latents"
    artifact = "latents"
    keeps_units = False
    sharing = "units"

    @cached_property
    def train(self) -> ImageSet:
        """The real training images."""
        return data.read_split(self.input("data/real/train"))

    @cached_property
    def vae(self) -> Any:
        """The generator's autoencoder, opened with the first unit."""
        files.read_manifest(self.input("data/generator"), "generator")
        return autoencoder.read_autoencoder(self.input("data/generator/vae")).to(self.machine.device)

    @property
    def variants(self) -> int:
        """2 with mirror images."""
        return 1 + self.params.latents.flip

    @property
    def without_generator(self) -> bool:
        """No latents, because nothing will look at them."""
        return self.params.generator.source == "none"

    def unread(self) -> list[str]:
        """Without a generator nothing is opened."""
        return ["data/real/*"] if self.without_generator else []

    def units(self) -> list[Unit]:
        """One batch of one variant each."""
        if self.without_generator:
            return []
        pieces = latents.pieces(len(self.train.images), self.params.latents.batch_size, self.variants)
        return [Unit(latents.piece_name(number), piece) for number, piece in enumerate(pieces)]

    def make(self, unit: Unit, path: Path) -> None:
        """The posterior of one batch."""
        variant, rows = unit.task
        images = self.train.images[rows]
        mean, std = autoencoder.encode(self.vae, images.flip(-1) if variant else images)
        files.write_tensors(path, {"mean": mean, "std": std})

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """All pieces in two array files, beside the generator's labels."""
        if self.without_generator:
            return {"images": 0, "variants": 0}
        classes = dit_layout.read_config(self.input("data/generator/transformer")).classes
        labels = data.generator_labels(self.input("data/real/classes.json"), classes)[self.train.class_index]
        pieces = [unit.task for unit in units]
        latents.join(self.workspace.path, self.workspace.output, pieces, labels, variants=self.variants)
        return {"images": len(self.train.images), "variants": self.variants}
