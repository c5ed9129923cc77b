"""The declared inputs of the stage that makes pools, opened when a source asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import files
from ims3core.data import ClassRow, ImageSet, SplitFacts, generator_labels, read_classes, read_split

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule


@dataclass(frozen=True)
class PoolInputs:
    """The folders a pool is made from; each is read, and its manifest checked, at first use.

    Attributes:
        real: images and class table.
        generator: a ``DiTPipeline``.
        adapted: its fine-tuned weights.
        guide: what the guide prepared, one file per class.
    """

    real: Path
    generator: Path
    adapted: Path
    guide: Path

    @cached_property
    def train(self) -> ImageSet:
        """The real training images."""
        return read_split(self.real / "train")

    @property
    def train_images(self) -> int:
        """How many there are, as their manifest says."""
        return files.read_manifest(self.real / "train", "split", SplitFacts).images

    @cached_property
    def classes(self) -> list[ClassRow]:
        """The class table, in the order of ``class_index``."""
        return read_classes(self.real / "classes.json")

    @cached_property
    def network(self) -> DiT:
        """The generator's transformer with its fine-tuned weights; those of the first phase, if there are phases."""
        from ims3core.diffusion.generator import read_adapted

        files.read_manifest(self.generator, "generator")
        return read_adapted(self.generator, self.adapted)

    @cached_property
    def phase(self) -> torch.Tensor | None:
        """The phase of fine-tuning of each class, int64 (C,); None where one network serves all classes."""
        import torch

        from ims3core.diffusion.generator import phase_of

        return phase_of(torch.tensor([row.generator_label for row in self.classes]), self.adapted)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Classes by the network they share; empty where one serves all."""
        if self.phase is None:
            return ()
        return tuple(tuple((self.phase == p).nonzero().flatten().tolist()) for p in self.phase.unique().tolist())

    def load_phase(self, class_index: int) -> None:
        """Puts the fine-tuned weights of a class's phase into :attr:`network`."""
        from ims3core.diffusion.generator import load_phase

        if self.phase is not None:
            load_phase(self.network, self.adapted, int(self.phase[class_index]))

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The generator's autoencoder."""
        from ims3core.diffusion.autoencoder import read_autoencoder

        return read_autoencoder(self.generator / "vae")

    @cached_property
    def schedule(self) -> Schedule:
        """The process the generator was trained on."""
        from ims3core.diffusion.generator import read_schedule

        return read_schedule(self.generator)

    @cached_property
    def labels(self) -> torch.Tensor:
        """The generator's label of every class, int64 (C,)."""
        return generator_labels(self.real / "classes.json", self.network.config.classes)

    def prepared(self, class_index: int) -> dict[str, torch.Tensor]:
        """What the guide prepared for one class."""
        return files.read_tensors(files.checked(self.guide / f"class-{class_index:04d}.safetensors"))
