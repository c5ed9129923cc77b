"""The frozen feature encoder, which is also the teacher: one network, one preprocessing for every image."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ims3core.base import files
from ims3core.base.library_errors import reason
from ims3core.data import unit
from ims3core.errors import ArtifactError, ParameterError
from ims3core.students.networks import FeatureNetwork, build_student
from ims3core.students.pixels import Normaliser

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class Encoder(nn.Module):
    """A network with the preprocessing it was trained with.

    Args:
        network: one of our own, or of timm with its ``forward_features`` and ``forward_head``.
        mean, std: per channel, of images in [0, 1].
        resize: side to which images are resized first, or None.
        crop: side of the centre crop that follows, or None.
        interpolation: ``bicubic`` or ``bilinear``.
    """

    def __init__(
        self, network: nn.Module, mean: list[float], std: list[float],
        resize: int | None = None, crop: int | None = None, interpolation: str = "bicubic",
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.resize, self.crop, self.interpolation = resize, crop, interpolation
        self.normalise = Normaliser(mean, std)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, C, S, S) as the network takes them."""
        return self.prepared(unit(images))

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, S, S) in [0, 1] as the network takes them: colour, size, mean and std."""
        if x.shape[1] != len(self.normalise.mean):
            x = x.expand(-1, len(self.normalise.mean), -1, -1)
        if self.resize is not None:
            from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

            x = resize(x, [self.resize] * 2, InterpolationMode(self.interpolation), antialias=True).clamp(0, 1)
            x = center_crop(x, [self.crop] * 2)
        return self.normalise(x)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit-norm float32 features (B, dim) of uint8 images (B, C, S, S)."""
        return F.normalize(self.raw_features(images).float(), dim=1)

    def raw_features(self, images: torch.Tensor) -> torch.Tensor:
        """What the network's last linear layer sees, (B, dim), of uint8 images (B, C, S, S)."""
        x = self.preprocess(images)
        network: Any = self.network
        if isinstance(network, FeatureNetwork):
            return network.features(x)
        return network.forward_head(network.forward_features(x), pre_logits=True)


def write_encoder(directory: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Writes a network; ``config`` holds name, classes, channels, side, mean, std, and for timm its preprocessing."""
    files.write_tensors(directory / WEIGHTS, network.state_dict())
    files.write_json(directory / CONFIG, config)


def read_encoder(directory: Path, kind: str = "encoder") -> Encoder:
    """The frozen encoder written by :func:`write_encoder` in an artifact of ``kind``, in eval mode.

    Raises:
        ArtifactError: if the weights are missing, truncated or of another network.
    """
    files.read_manifest(directory, kind)
    config = files.read_json(directory / CONFIG)
    if config.get("library") == "timm":
        import timm

        network = timm.create_model(config["name"], pretrained=False, num_classes=config["classes"])
    else:
        sizes = {key: config[key] for key in ("classes", "channels", "side", "norm") if key in config}
        network = build_student(config["name"], **sizes, seed=0)
    try:
        network.load_state_dict(files.read_tensors(directory / WEIGHTS))
    except RuntimeError as error:
        raise ArtifactError(
            f"{directory / WEIGHTS}: does not fit {config['name']} ({str(error).splitlines()[-1].strip()})"
        ) from error
    preprocessing = {key: config[key] for key in ("resize", "crop", "interpolation") if key in config}
    encoder = Encoder(network, config["mean"], config["std"], **preprocessing)
    return encoder.eval().requires_grad_(False)


def timm_encoder(name: str, weights: Path | None, section: str = "encoder") -> tuple[nn.Module, dict[str, Any]]:
    """A pretrained timm model and the configuration of its own preprocessing (timm's data config).

    Args:
        name: a timm model, with its tag (``resnet18.a1_in1k``); ``hf-hub:`` and ``local-dir:`` names work too.
        weights: a local safetensors or state-dict file; None: from the hub or its local cache.
        section: of params.yaml that asks for it, for the error message.

    Raises:
        ParameterError: for an unknown model, or weights that are missing or of another model.
    """
    import timm

    from ims3core.base.hub import cache_if_unreachable

    where = f"{section}.network: {name}"
    if name.startswith("local-dir:") and not Path(folder := name.removeprefix("local-dir:")).expanduser().is_dir():
        raise ParameterError(f"{where}: {folder}: no such folder")
    try:
        with cache_if_unreachable() if ":" in name else contextlib.nullcontext():  # its configuration is on the hub
            network = timm.create_model(name, pretrained=False)
    except Exception as error:
        raise ParameterError(f"{where}: {_unknown(name, error, section)}") from error
    if weights is not None:
        _put(network, Path(weights).expanduser(), name, f"{section}.weights")
    else:
        try:
            with cache_if_unreachable():
                network = timm.create_model(name, pretrained=True)
        except Exception as error:
            raise ParameterError(
                f"{where}: its weights cannot be fetched ({reason(error)}); without a network, download them elsewhere "
                f"and name the file in {section}.weights"
            ) from error
    config = timm.data.resolve_data_config(model=network)
    side = config["input_size"][-1]
    return network, {
        "library": "timm", "name": name, "classes": network.num_classes,
        "mean": list(config["mean"]), "std": list(config["std"]),
        "resize": int(side / config["crop_pct"]), "crop": side,
        "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    }  # fmt: skip


def _unknown(name: str, error: Exception, section: str) -> str:
    """Why timm cannot build a network of this name."""
    import difflib

    import timm

    fault = reason(error)
    if ":" in name and "Unknown model" not in fault:
        return (
            f"its configuration cannot be fetched ({fault}); without a network, download the repository elsewhere and "
            f"name it as {section}.network: local-dir:FOLDER"
        )
    base, _, tag = name.partition(".")
    if base in timm.list_models():
        tags = [model.partition(".")[2] for model in timm.list_pretrained(base)]
        return f"{base} is not known with the tag {tag!r}; known: {', '.join(tags) or 'none'}"
    close = difflib.get_close_matches(base.lower(), timm.list_models(), 3)
    return f"unknown to timm {timm.__version__}" + (f"; do you mean {' or '.join(close)}?" if close else f" ({fault})")


def _put(network: nn.Module, path: Path, name: str, where: str) -> None:
    """Loads the file ``path`` into ``network``, whose names and shapes it must have."""
    from ims3core.data import weights

    expected = network.state_dict()
    state = weights.read(path, list(expected), where=where)
    common = {key: value for key, value in state.items() if key in expected}
    if odd := [key for key, value in common.items() if value.shape != expected[key].shape]:
        sizes = f"{tuple(common[odd[0]].shape)}, the network's is {tuple(expected[odd[0]].shape)}"
        head = " (a head of other classes?)" if len(odd) <= 2 else ""
        raise ParameterError(f"{where}: {path}: not of {name}: {odd[0]} has shape {sizes}{head}")
    missing, extra = sorted(set(expected) - set(common)), sorted(set(state) - set(common))
    if (missing or extra) and not _timm_renames(network, state):
        parts = [f"{len(keys)} keys {fault} ({keys[0]}, ...)" for keys, fault in
                 ((missing, "missing"), (extra, "unexpected")) if keys]  # fmt: skip
        raise ParameterError(f"{where}: {path}: not the weights of {name}: {', '.join(parts)}")
    if not missing and not extra:
        network.load_state_dict(state)


def _timm_renames(network: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    """Whether timm knows these names from an older or foreign version of the network; then they are loaded."""
    import importlib

    convert = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return False
    try:
        network.load_state_dict(convert(dict(state), network))
    except Exception:  # the names mean nothing to it either
        return False
    return True
