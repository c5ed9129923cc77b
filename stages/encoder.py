"""encoder: the frozen feature encoder and teacher (paper 4.2), trained on the real training images."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import data, encoders
from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.students import augment, networks, protocols, train

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path) -> None:
    """Writes data/encoder: weights, configuration, and, where it is trained here, its validation accuracy."""
    staged = root / "scratch" / "encoder"
    shutil.rmtree(staged, ignore_errors=True)
    wanted = params.encoder
    if wanted.source == "timm":
        network, config = encoders.timm_encoder(wanted.network, wanted.weights and Path(wanted.weights))
        encoders.write_encoder(staged, network, config)
        facts = {}
    else:
        facts = {"validation_top1": _train(params, root, staged)}
    files.write_manifest(staged, "encoder", network=wanted.network, **facts)
    files.replace_directory(staged, root / "data/encoder")


def _train(params: Params, root: Path, out: Path) -> float:
    """Trains the network on the real training images; returns its accuracy in percent on the validation split."""
    wanted = params.encoder
    machine = compute.machine(**params.compute.model_dump())
    real, validation = (data.read_split(root / "data/real" / name) for name in ("train", "validation"))
    names = data.read_classes(root / "data/real/classes.json")
    mean, std = data.read_statistics(root / "data/real" / data.STATISTICS)
    channels, side = real.images.shape[1], real.images.shape[-1]
    seed = derive_seed(params.seed, "encoder")
    sizes = {"classes": len(names), "channels": channels, "side": side}
    network = networks.build_student(wanted.network, **sizes, seed=seed)
    plan = protocols.plan(
        ipc=len(real.images) // len(names), classes=len(names), images=len(real.images), epochs=None,
        **wanted.model_dump(include={"steps", "batch_size", "lr", "momentum", "weight_decay", "cutmix"}),
        schedule="cosine", evaluations=1,
    )  # fmt: skip
    result = train.train_student(
        network, real.images, real.class_index, side=side, test_images=validation.images,
        test_class_index=validation.class_index, plan=plan,
        augmentation=augment.build_augmentation(**params.augment.model_dump(), side=side, channels=channels),
        mean=mean, std=std, seed=seed, device=machine.device, precision=machine.precision,
    )  # fmt: skip
    log.info("%s: %.2f %% on the validation split", wanted.network, result.last_top1)
    encoders.write_encoder(out, network, {"name": wanted.network, **sizes, "mean": mean, "std": std})
    return round(result.last_top1, 4)
