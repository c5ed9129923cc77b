"""teacher: the classifier of our classes that gives soft labels and ranks candidates (paper 5.1)."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from ims3core import data
from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.classifiers import encoder, teacher, training
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit

log = logging.getLogger(__name__)
NETWORK = Unit("network")


class Teacher(Stage):
    """Writes data/teacher: weights, configuration, which outputs are our classes, and the validation accuracy."""

    name = "teacher"
    artifact = "teacher"
    silent = True

    def unread(self) -> list[str]:
        """Only one that is the encoder opens it."""
        return [] if self.params.teacher.source == "encoder" else ["data/encoder"]

    def units(self) -> list[Unit]:
        """The training; nothing to train of the encoder or of a timm model."""
        return [NETWORK] if self.params.teacher.source == "train" else []

    def make(self, unit: Unit, path: Path) -> None:
        """The trained network; an interrupted training goes on from its checkpoint."""
        training.write_trained(
            path, training.ClassifierSpec(**self.params.teacher.model_dump(exclude={"source"})),
            self.root / "data/real", augment=self.params.augment, machine=self.machine,
            seed=derive_seed(self.params.seed, self.name), begun=self.workspace.path / "begun",
            progress=partial(progress.track, label=self.label),
        )  # fmt: skip

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """Takes the trained network, fetches or copies one, and scores it on the validation split."""
        output, real, section = self.workspace.output, self.root / "data/real", self.params.teacher
        config = self._write_network(output)
        names = [row.name for row in data.read_classes(real / "classes.json")]
        teacher.write_rows(output, teacher.head_rows(config, names))
        files.write_manifest(output, "teacher", network=config["name"], source=section.source)
        network, validation = teacher.read_teacher(output).to(self.machine.device), data.read_split(real / "validation")
        top1 = teacher.accuracy(
            network, validation.images, validation.class_index, batch_size=256, device=self.machine.device
        )
        log.info("teacher %s (%s): %.2f %% on the validation split", config["name"], section.source, top1)
        facts = {"network": config["name"], "source": section.source, "validation_top1": round(top1, 4)}
        return {**facts, "batch_norms": len(network.norms)}

    def _write_network(self, output: Path) -> dict[str, Any]:
        """Writes weights and configuration; returns the configuration."""
        section = self.params.teacher
        if section.source == "timm":
            weights = Path(section.weights) if section.weights else None
            network, config = encoder.timm_encoder(section.network, weights, "teacher")
            encoder.write_encoder(output, network, config)
        else:
            folder = self.unit_path(NETWORK)
            if section.source == "encoder":
                folder = self.input("data/encoder")
                files.read_manifest(folder, "encoder")
            for name in (encoder.CONFIG, encoder.WEIGHTS):
                if section.source == "train":
                    self.workspace.link(f"{NETWORK.name}/{name}", name)
                else:
                    shutil.copyfile(folder / name, output / name)
            config = files.read_json(folder / encoder.CONFIG)
        return config
