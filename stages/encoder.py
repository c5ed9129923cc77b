"""encoder: the frozen feature encoder (paper 4.2), trained on the real training images or a timm model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data, encoders
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.students.classifier import train_classifier

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/encoder: weights, configuration, and, where it is trained here, its validation accuracy."""
    staged, wanted = root / "scratch" / "encoder", params.encoder
    shutil.rmtree(staged, ignore_errors=True)
    if wanted.source == "timm":
        network, config = encoders.timm_encoder(wanted.network, wanted.weights and Path(wanted.weights))
        facts = {}
    else:
        machine, real = compute.machine(**params.compute.model_dump()), root / "data/real"
        network, config, top1 = train_classifier(
            data.read_split(real / "train"), data.read_split(real / "validation"),
            classes=len(data.read_classes(real / "classes.json")), statistics=real / data.STATISTICS,
            augmentation=params.augment.model_dump(), settings=wanted.model_dump(exclude={"source"}),
            seed=derive_seed(params.seed, "encoder"), device=machine.device, precision=machine.precision,
        )  # fmt: skip
        log.info("%s: %.2f %% on the validation split", wanted.network, top1)
        facts = {"validation_top1": top1}
    encoders.write_encoder(staged, network, config)
    files.write_manifest(staged, "encoder", network=wanted.network, **facts)
    files.replace_directory(staged, root / "data/encoder")
