"""A classifier trained on the real images: the encoder, or the teacher, of a data set without a pretrained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ims3core import data
from ims3core.students import augment, networks, protocols, train


def train_classifier(
    real: data.ImageSet,
    validation: data.ImageSet,
    *,
    classes: int,
    statistics: Path,
    augmentation: dict[str, Any],
    settings: dict[str, Any],
    seed: int,
    device: torch.device,
    precision: str,
) -> tuple[torch.nn.Module, dict[str, Any], float]:
    """A network, the configuration to keep beside its weights, and its accuracy in percent on ``validation``.

    Args:
        statistics: file of mean and std per channel of the training images.
        augmentation: the values of the section ``augment``.
        settings: network, steps, batch_size, lr, momentum, weight_decay, cutmix and, if need be, norm.
    """
    mean, std = data.read_statistics(statistics)
    channels, side = real.images.shape[1], real.images.shape[-1]
    rules = dict(settings)
    name, norm = rules.pop("network"), rules.pop("norm", "instance")
    sizes = {"classes": classes, "channels": channels, "side": side}
    network = networks.build_student(name, **sizes, norm=norm, seed=seed)
    result = train.train_student(
        network, real.images, real.class_index, side=side, test_images=validation.images,
        test_class_index=validation.class_index,
        plan=protocols.plan(
            ipc=len(real.images) // classes, classes=classes, images=len(real.images), epochs=None, schedule="cosine",
            evaluations=1, **rules,
        ),
        augmentation=augment.build_augmentation(**augmentation, side=side, channels=channels),
        mean=mean, std=std, seed=seed, device=device, precision=precision,
    )  # fmt: skip
    kept = {"name": name, **sizes, "mean": mean, "std": std} | ({} if norm == "instance" else {"norm": norm})
    return network, kept, round(result.last_top1, 4)
