"""encoder: the frozen feature encoder (paper 4.2), trained on the real training images or a timm model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.classifiers import encoder, training
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit

NETWORK = Unit("network")


class Encoder(Stage):
    """Writes data/encoder: weights, configuration, and, where it is trained here, its validation accuracy."""

    name = "encoder"
    artifact = "encoder"
    silent = True

    def unread(self) -> list[str]:
        """A timm model sees no image."""
        return ["data/real/*"] if self.params.encoder.source == "timm" else []

    def units(self) -> list[Unit]:
        """The training; nothing to train of a timm model."""
        return [NETWORK] if self.params.encoder.source == "train" else []

    def make(self, unit: Unit, path: Path) -> None:
        """The trained network; an interrupted training goes on from its checkpoint."""
        training.write_trained(
            path, training.ClassifierSpec(**self.params.encoder.model_dump(exclude={"source"})),
            self.root / "data/real", augment=self.params.augment, machine=self.machine,
            seed=derive_seed(self.params.seed, self.name), begun=self.workspace.path / "begun",
            progress=partial(progress.track, label=self.label),
        )  # fmt: skip

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """The network that was trained, or a timm model."""
        section, facts = self.params.encoder, {}
        if section.source == "timm":
            network, config = encoder.timm_encoder(section.network, Path(section.weights) if section.weights else None)
            encoder.write_encoder(self.workspace.output, network, config)
        else:
            for name in (encoder.CONFIG, encoder.WEIGHTS):
                self.workspace.link(f"{NETWORK.name}/{name}", name)
            facts = files.read_json(self.unit_path(NETWORK) / training.SCORE)
        return {"network": section.network, **facts}
