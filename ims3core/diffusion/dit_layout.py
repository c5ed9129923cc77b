"""Weight names: our DiT and diffusers' ``DiTTransformer2DModel``, both ways.

diffusers stores a copy of the time and label embedding in every block. Reading checks that all
copies are equal (otherwise the model is not a DiT and is refused); writing repeats ours.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ims3core.base import files
from ims3core.diffusion.dit import DiT, DitConfig, sine_positions
from ims3core.errors import ArtifactError

EMBEDDINGS = {
    "t_embedder.linear_1.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.linear_1.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.linear_2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.linear_2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.weight": "class_embedder.embedding_table.weight",
}
OUTER = {"patch_embedder": "pos_embed.proj", "modulation_out": "proj_out_1", "linear_out": "proj_out_2"}
INNER = {
    "modulation": "norm1.linear",
    "attention.proj": "attn1.to_out.0",
    "mlp_in": "ff.net.0.proj",
    "mlp_out": "ff.net.2",
}
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second: older versions of diffusers
SIZES = ("num_attention_heads", "attention_head_dim", "in_channels", "sample_size", "patch_size", "num_layers",
         "num_embeds_ada_norm")  # fmt: skip
TIME = "time_features.json"  # beside the weights; diffusers does not look at it


def to_diffusers(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """Our state dictionary (without DiffFit scales) under diffusers' names."""
    out = {}
    for kind in ("weight", "bias"):
        for ours, theirs in OUTER.items():
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        for block in range(depth):
            prefix = f"transformer_blocks.{block}."
            for ours, theirs in INNER.items():
                out[f"{prefix}{theirs}.{kind}"] = state[f"blocks.{block}.{ours}.{kind}"]
            for theirs, part in zip(QKV, state[f"blocks.{block}.attention.qkv.{kind}"].chunk(3), strict=True):
                out[f"{prefix}{theirs}.{kind}"] = part.clone()
    for block in range(depth):
        for ours, theirs in EMBEDDINGS.items():
            out[f"transformer_blocks.{block}.norm1.emb.{theirs}"] = state[ours].clone()
    return out


def from_diffusers(state: dict[str, torch.Tensor], depth: int, *, name: str) -> dict[str, torch.Tensor]:
    """diffusers' state dictionary under our names.

    Raises:
        ArtifactError: if keys are missing or left over, or if the embedding copies of two blocks differ.
    """
    rest = dict(state)

    def take(key: str) -> torch.Tensor:
        try:
            return rest.pop(key)
        except KeyError as error:
            raise ArtifactError(f"{name}: key {key} is missing; not a DiT of {depth} blocks") from error

    out = {}
    for kind in ("weight", "bias"):
        for ours, theirs in OUTER.items():
            out[f"{ours}.{kind}"] = take(f"{theirs}.{kind}")
        for block in range(depth):
            prefix = f"transformer_blocks.{block}."
            for ours, theirs in INNER.items():
                out[f"blocks.{block}.{ours}.{kind}"] = take(f"{prefix}{theirs}.{kind}")
            out[f"blocks.{block}.attention.qkv.{kind}"] = torch.cat([take(f"{prefix}{part}.{kind}") for part in QKV])
    for ours, theirs in EMBEDDINGS.items():
        out[ours] = take(f"transformer_blocks.0.norm1.emb.{theirs}")
        for block in range(1, depth):
            key = f"transformer_blocks.{block}.norm1.emb.{theirs}"
            if not torch.equal(take(key), out[ours]):
                raise ArtifactError(f"{name}: {key} differs from block 0; all blocks of a DiT share one embedding")
    rest.pop("pos_embed.pos_embed", None)  # fixed sine positions, recomputed
    if rest:
        raise ArtifactError(f"{name}: unexpected key {sorted(rest)[0]} ({len(rest)} in all)")
    return out


def config_from_diffusers(config: dict[str, Any], *, name: str) -> DitConfig:
    """Our sizes from a diffusers ``config.json``; anything but adaLN-Zero with learned variance is refused."""
    if (kind := config.get("_class_name", CLASSES[0])) not in CLASSES:
        raise ArtifactError(f"{name}: a {kind}, wanted a class-conditional {CLASSES[0]}")
    if missing := [key for key in SIZES if not isinstance(config.get(key), int) or config[key] < 1]:
        raise ArtifactError(f"{name}: {missing[0]} is {config.get(missing[0])!r}, wanted a positive whole number")
    required = {
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "out_channels": 2 * config["in_channels"],
    }
    for key, value in required.items():
        if config.get(key, value) != value:
            raise ArtifactError(f"{name}: {key} is {config[key]!r}, wanted {value!r}")
    heads = config["num_attention_heads"]
    return DitConfig(
        channels=config["in_channels"],
        side=config["sample_size"],
        patch=config["patch_size"],
        width=heads * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=heads,
        classes=config["num_embeds_ada_norm"],
        norm_eps=config.get("norm_eps", 1e-5),
    )


def config_to_diffusers(config: DitConfig) -> dict[str, Any]:
    """The constructor arguments of diffusers' ``DiTTransformer2DModel``."""
    return {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.channels,
        "out_channels": 2 * config.channels,
        "num_layers": config.depth,
        "sample_size": config.side,
        "patch_size": config.patch,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": config.classes,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": config.norm_eps,
    }


def write_transformer(directory: Path, network: DiT) -> None:
    """Writes ``network`` as the ``transformer`` folder of a ``DiTPipeline``."""
    arguments = {"_class_name": "DiTTransformer2DModel", **config_to_diffusers(network.config)}
    files.write_json(directory / CONFIG, arguments)
    if network.config.time_features != "diffusers":
        files.write_json(directory / TIME, network.config.time_features)
    state = to_diffusers(network.state_dict(), network.config.depth)
    files.write_tensors(directory / WEIGHTS, state, {"format": "pt"})


def read_config(directory: Path) -> DitConfig:
    """The sizes of the DiT in the ``transformer`` folder of a ``DiTPipeline``."""
    config = config_from_diffusers(files.read_json(directory / CONFIG), name=str(directory / CONFIG))
    if not (directory / TIME).is_file():
        return config
    kind = files.read_json(directory / TIME)
    if kind not in ("diffusers", "original"):
        raise ArtifactError(f"{directory / TIME}: found {kind!r}, wanted 'diffusers' or 'original'")
    return replace(config, time_features=kind)


def read_transformer(
    directory: Path, time_features: str | None = None, state: dict[str, torch.Tensor] | None = None
) -> DiT:
    """The DiT in the ``transformer`` folder of a ``DiTPipeline``, in the precision it was saved in.

    Args:
        time_features: which ones its weights were trained with; None: what the folder says, else diffusers'.
        state: the weights under diffusers' names; None: those in the folder as it is written here.
    """
    state = files.read_tensors(directory / WEIGHTS) if state is None else state
    config = read_config(directory)
    if time_features is not None:
        config = replace(config, time_features=time_features)
    return assemble(config, from_diffusers(state, config.depth, name=str(directory / WEIGHTS)), name=str(directory))


def assemble(config: DitConfig, state: dict[str, torch.Tensor], *, name: str) -> DiT:
    """A DiT of the given sizes that uses the tensors of ``state`` (our names) as they are, without a copy.

    Raises:
        ArtifactError: if a tensor has not the shape that the sizes ask for.
    """
    with torch.device("meta"):
        network = DiT(config)
    for key, parameter in network.state_dict().items():
        if state[key].shape != parameter.shape:
            raise ArtifactError(f"{name}: {key} has shape {tuple(state[key].shape)}, wanted {tuple(parameter.shape)}")
    network.load_state_dict(state, assign=True)
    network.positions = sine_positions(config.width, config.side // config.patch)
    return network
