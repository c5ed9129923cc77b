"""The teacher: a classifier of our classes, which gives soft labels and ranks candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ims3core.base import files
from ims3core.base.schema import Index
from ims3core.classifiers.encoder import Encoder, read_encoder
from ims3core.data import IndexedImages, unit
from ims3core.errors import ParameterError
from ims3core.students.networks import FeatureNetwork

CLASSES = "classes.json"


class Teacher(nn.Module):
    """Logits over our classes, of images in [0, 1].

    Args:
        encoder: a network with its preprocessing; its own head is asked.
        rows: which of the head's outputs are our classes, in the order of ``class_index``; None: all of them.
    """

    rows: torch.Tensor | None

    def __init__(self, encoder: Encoder, rows: torch.Tensor | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes), float32, of images (B, C, S, S) in [0, 1]."""
        logits: torch.Tensor = self.encoder.network(self.encoder.prepared(images)).float()
        return logits if self.rows is None else logits[:, self.rows]

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """What the last linear layer sees, (B, dim) float32, of uint8 images (B, C, S, S)."""
        return self.encoder.raw_features(images).float()

    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (classes, dim) and bias (classes,) of the last linear layer, our classes only."""
        network: Any = self.encoder.network
        layer = network.head if isinstance(network, FeatureNetwork) else network.get_classifier()
        rows = slice(None) if self.rows is None else self.rows
        return layer.weight[rows].float(), layer.bias[rows].float()

    @property
    def norms(self) -> list[nn.Module]:
        """The batch norms of the network, in the order in which images pass them."""
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        return [module for module in self.encoder.network.modules() if isinstance(module, kinds)]


def head_rows(config: dict[str, Any], names: list[str]) -> list[int] | None:
    """Which outputs of a network are our classes; None: exactly all, in our order.

    Args:
        config: as written beside the network (:func:`ims3core.classifiers.encoder.write_encoder`).
        names: of our classes, which are folder names.

    Raises:
        ParameterError: the head has other classes, and the names are not ImageNet's.
    """
    if config["classes"] == len(names):
        return None
    if config["classes"] == 1000:
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        outputs = {info.index_to_label_name(i): i for i in range(1000)}
        if all(name in outputs for name in names):
            return [outputs[name] for name in names]
    raise ParameterError(
        f"teacher.source: the head of {config['name']} has {config['classes']} classes, the data has {len(names)} "
        f"({', '.join(names[:3])}, ...); a head of 1000 ImageNet classes can be cut where folders are named by WordNet "
        "ids; else teacher.source: train"
    )


def write_rows(directory: Path, rows: list[int] | None) -> None:
    """Writes which outputs are our classes."""
    files.write_json(directory / CLASSES, rows)


def read_teacher(directory: Path) -> Teacher:
    """The frozen teacher in ``directory``, in eval mode.

    Raises:
        ArtifactError: if it is missing, damaged or of another kind.
    """
    encoder = read_encoder(directory, kind="teacher")
    rows: list[int] | None = files.read_json(directory / CLASSES, list[Index] | None)
    teacher = Teacher(encoder, None if rows is None else torch.tensor(rows))
    return teacher.eval().requires_grad_(False)


def accuracy(
    teacher: Teacher, images: torch.Tensor | IndexedImages, class_index: torch.Tensor, *, batch_size: int,
    device: torch.device,
) -> float:  # fmt: skip
    """Percent of ``images`` (uint8) that the teacher recognises."""
    right = 0
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            batch = unit(images[first : first + batch_size].to(device))
            right += int((teacher(batch).argmax(1).cpu() == class_index[first : first + batch_size]).sum())
    return 100 * right / len(images)
