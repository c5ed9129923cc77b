"""teacher: the classifier of our classes that gives soft labels and ranks candidates (paper 5.1)."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data, encoders
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.students import teachers
from ims3core.students.classifier import train_classifier

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/teacher: weights, configuration, which outputs are our classes, and the validation accuracy."""
    wanted, staged, real = params.teacher, root / "scratch" / "teacher", root / "data/real"
    machine = compute.machine(**params.compute.model_dump())
    classes, validation = data.read_classes(real / "classes.json"), data.read_split(real / "validation")
    shutil.rmtree(staged, ignore_errors=True)
    if wanted.source == "encoder":
        files.read_manifest(root / "data/encoder", "encoder")
        config = files.read_json(root / "data/encoder" / encoders.CONFIG)
        staged.mkdir(parents=True)
        for name in (encoders.CONFIG, encoders.WEIGHTS):
            shutil.copyfile(root / "data/encoder" / name, staged / name)
    elif wanted.source == "timm":
        network, config = encoders.timm_encoder(wanted.network, wanted.weights and Path(wanted.weights), "teacher")
        encoders.write_encoder(staged, network, config)
    else:
        network, config, _ = train_classifier(
            data.read_split(real / "train"), validation, classes=len(classes), statistics=real / data.STATISTICS,
            augmentation=params.augment.model_dump(), settings=wanted.model_dump(exclude={"source"}),
            seed=derive_seed(params.seed, "teacher"), device=machine.device, precision=machine.precision,
        )  # fmt: skip
        encoders.write_encoder(staged, network, config)
    teachers.write_rows(staged, teachers.head_rows(config, [row.name for row in classes]))
    files.write_manifest(staged, "teacher", network=config["name"], source=wanted.source)
    teacher = teachers.read_teacher(staged).to(machine.device)
    top1 = teachers.accuracy(teacher, validation.images, validation.class_index, batch_size=256, device=machine.device)
    facts = {"network": config["name"], "source": wanted.source, "validation_top1": round(top1, 4)}
    files.write_manifest(staged, "teacher", **facts, batch_norms=len(teacher.norms))
    log.info("teacher %s (%s): %.2f %% on the validation split", config["name"], wanted.source, top1)
    files.replace_directory(staged, root / "data/teacher")
