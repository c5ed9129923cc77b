"""The frozen feature encoder, which is also the teacher: one network, one preprocessing for every image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ims3core import files
from ims3core.errors import ArtifactError
from ims3core.students.networks import build_student

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class Encoder(nn.Module):
    """A classifier with the normalisation it was trained with.

    Args:
        network: has ``features(x) -> (B, dim)`` and ``forward(x) -> (B, classes)``.
        mean, std: per channel, of images in [0, 1].
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit-norm features (B, dim) of images (B, C, H, W) in [0, 1]."""
        return F.normalize(self.network.features((images - self.mean) / self.std), dim=1)


def write_encoder(directory: Path, network: nn.Module, config: dict) -> None:
    """Writes a trained network; ``config`` holds name, classes, channels, side, mean and std."""
    files.write_tensors(directory / WEIGHTS, network.state_dict())
    files.write_json(directory / CONFIG, config)


def read_encoder(directory: Path) -> Encoder:
    """The frozen encoder written by :func:`write_encoder`, in eval mode.

    Raises:
        ArtifactError: if the weights are missing, truncated or of another network.
    """
    files.read_manifest(directory, "encoder")
    config = files.read_json(directory / CONFIG)
    sizes = {key: config[key] for key in ("classes", "channels", "side")}
    network = build_student(config["name"], **sizes, seed=0)
    try:
        network.load_state_dict(files.read_tensors(directory / WEIGHTS))
    except RuntimeError as error:
        raise ArtifactError(f"{directory / WEIGHTS}: does not fit {config['name']} ({str(error).splitlines()[-1].strip()})") from error
    return Encoder(network, config["mean"], config["std"]).eval().requires_grad_(False)


@torch.inference_mode()
def embed(
    encoder: Encoder,
    images: torch.Tensor,
    *,
    batch_size: int,
    progress: Callable[[Iterator[torch.Tensor]], Iterator[torch.Tensor]] = iter,
) -> torch.Tensor:
    """Unit-norm float32 features (N, dim) of uint8 images (N, C, H, W)."""
    device = encoder.mean.device
    batches = images.split(batch_size)
    return torch.cat([encoder.features(batch.to(device).float() / 255).float().cpu() for batch in progress(iter(batches))])
