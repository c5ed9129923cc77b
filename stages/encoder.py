"""encoder: the frozen feature encoder (paper 4.2), trained on the real training images or a timm model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ims3core.base.seeds import derive_seed
from ims3core.classifiers.encoder import timm_encoder, write_encoder
from ims3core.classifiers.training import ClassifierSpec, train_on_real_images
from ims3core.pipeline.stage import Stage, Unit

log = logging.getLogger(__name__)


class Encoder(Stage):
    """Writes data/encoder: weights, configuration, and, where it is trained here, its validation accuracy."""

    name = "encoder"
    artifact = "encoder"

    def unread(self) -> list[str]:
        """A timm model sees no image."""
        return ["data/real/*"] if self.params.encoder.source == "timm" else []

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """Trains or fetches the network."""
        section, facts = self.params.encoder, {}
        if section.source == "timm":
            network, config = timm_encoder(section.network, Path(section.weights) if section.weights else None)
        else:
            spec = ClassifierSpec(**section.model_dump(exclude={"source"}))
            network, config, top1 = train_on_real_images(
                spec, self.root / "data/real", augment=self.params.augment, machine=self.machine,
                seed=derive_seed(self.params.seed, self.name),
            )  # fmt: skip
            log.info("%s: %.2f %% on the validation split", section.network, top1)
            facts = {"validation_top1": top1}
        write_encoder(self.workspace.output, network, config)
        return {"network": section.network, **facts}
