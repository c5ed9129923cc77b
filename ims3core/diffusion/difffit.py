"""DiffFit: which weights of a DiT are fine-tuned, as a small delta beside a frozen generator.

Trainable are all biases, the label table and multiplicative scales (gamma, initially 1) in the first
blocks; 1,739,552 weights for DiT-XL/2, 0.26 % of the model (Xie et al., ICCV 2023; methods b).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from ims3core.base import files
from ims3core.diffusion.dit import Block, DiT
from ims3core.errors import ArtifactError

TRAINABLE = ("bias", "norm", "gamma", "y_embedder")
DELTA = "delta.safetensors"


def add_scales(network: DiT, gamma_fraction: float) -> None:
    """Adds scales of value 1 to the first ``gamma_fraction`` of the blocks (half of them in the public code)."""
    width = network.config.width
    for block in network.blocks[: math.ceil(gamma_fraction * len(network.blocks))]:
        assert isinstance(block, Block)
        device = block.mlp_in.weight.device
        for owner, name, size in (
            (block.attention, "gamma_qkv", 3 * width),
            (block.attention, "gamma_proj", width),
            (block, "gamma_attention", width),
            (block, "gamma_mlp", width),
        ):
            owner.register_parameter(name, nn.Parameter(torch.ones(size, device=device)))


def freeze_all_but_difffit(network: DiT) -> dict[str, nn.Parameter]:
    """Freezes ``network`` except the DiffFit weights, and returns those by name."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(part in name for part in TRAINABLE))
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def cast_frozen(network: DiT, dtype: torch.dtype) -> None:
    """Stores the frozen weights of ``network`` in ``dtype``; trainable ones stay as they are."""
    for parameter in network.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def write_delta(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Writes the fine-tuned weights, a few MB even for DiT-XL/2."""
    files.write_tensors(path, weights, {"format": "ims3-delta-1"})


def apply_delta(network: DiT, path: Path) -> None:
    """Puts the fine-tuned weights of ``path`` into ``network``, adding the scales it holds.

    Raises:
        ArtifactError: if a weight does not belong to this network or has another shape.
    """
    delta = files.read_tensors(path)
    for name, value in delta.items():
        owner, _, attribute = name.rpartition(".")
        try:
            module = network.get_submodule(owner)
            current = getattr(module, attribute)
        except AttributeError as error:
            raise ArtifactError(f"{path}: {name} has no place in this generator; adapted from another one?") from error
        if current is None:
            setattr(module, attribute, nn.Parameter(value))
        elif current.shape != value.shape:
            raise ArtifactError(
                f"{path}: {name} has shape {tuple(value.shape)}, the generator's is {tuple(current.shape)}"
            )
        else:
            current.data.copy_(value)


@torch.no_grad()
def fold_scales(network: DiT) -> None:
    """Multiplies every scale into the linear layer before it and removes it; the output stays the same.

    The scales of the gated branches move through the gate, which is elementwise too.
    """
    for block in network.blocks:
        assert isinstance(block, Block)
        attention = block.attention
        for layer, owner, name in (
            (attention.qkv, attention, "gamma_qkv"),
            (attention.proj, attention, "gamma_proj"),
            (attention.proj, block, "gamma_attention"),
            (block.mlp_out, block, "gamma_mlp"),
        ):
            if (gamma := getattr(owner, name)) is not None:
                layer.weight.mul_(gamma[:, None].to(layer.weight.dtype))
                layer.bias.mul_(gamma.to(layer.bias.dtype))
                setattr(owner, name, None)
