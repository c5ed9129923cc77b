"""Generators that exist: a hub repository, a ``DiTPipeline`` folder, or a checkpoint of DiT's authors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core.base import files
from ims3core.data import weights
from ims3core.diffusion.autoencoder import read_autoencoder, single_file_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.dit_layout import CONFIG, assemble, read_transformer
from ims3core.errors import ArtifactError, ParameterError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

VAES = {"ema": "stabilityai/sd-vae-ft-ema", "mse": "stabilityai/sd-vae-ft-mse"}
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # DiT-S, B, L, XL: a checkpoint does not say
OUTER = {
    "x_embedder.proj": "patch_embedder",
    "t_embedder.mlp.0": "t_embedder.linear_1",
    "t_embedder.mlp.2": "t_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "modulation_out",
    "final_layer.linear": "linear_out",
}
INNER = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
    "adaLN_modulation.1": "modulation",
}
HUB = re.compile(
    r"(^|/)DiT-XL-2-(256|512)/?$"
)  # the authors' weights in diffusers' layout, whatever folder they are in
KIND = "AutoencoderKL"
FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
NORM_EPS = 1e-6  # of both norms of a block, in the authors' code


def load(
    *, model: str, revision: str | None, sha256: str | None, heads: int | None, vae: str | None,
    time_features: str = "auto",
) -> tuple[DiT, AutoencoderKL, str]:  # fmt: skip
    """The transformer, the VAE, and where they came from (with the commit, for a hub repository).

    Args:
        model: a hub id, a folder in the ``DiTPipeline`` layout, or a ``.pt`` file of DiT's authors.
        revision: commit, tag or branch of the hub repository.
        sha256: of the ``.pt`` file; checked where given.
        heads: attention heads of a ``.pt`` file of unusual width.
        vae: None for the pipeline's own, ``ema`` or ``mse``, a hub id, or a folder.
        time_features: ``original`` or ``diffusers``, what the weights were trained with. ``auto``: the original ones
            for a ``.pt`` file and for the hub's folders of DiT's authors, which diffusers computes shifted; for other
            folders what they say of themselves, else diffusers'.

    Raises:
        ParameterError, ArtifactError: naming file or key, and for a missing download what to get and where to put it.
    """
    path = Path(model).expanduser()
    if path.suffix in FILES and not path.is_dir():
        if vae is None:
            raise ParameterError(
                f"generator.vae: found null, a checkpoint like {path.name} wants {', '.join(VAES)}, a folder or a file"
            )
        if sha256 is not None and path.is_file() and (digest := files.sha256(path)) != sha256:
            raise ArtifactError(f"{path}: its SHA-256 is {digest}, generator.sha256 says {sha256}")
        kind = "original" if time_features == "auto" else time_features
        network, source = read_original(path, heads=heads, time_features=kind), path.name
    else:
        folder, source = _folder(model, revision, key="generator.model")
        features = {"auto": "original" if HUB.search(model) else None}
        network = _transformer(folder, features.get(time_features, time_features))
        vae = vae or str(folder / "vae")
    decoder = _vae(vae)
    if decoder.config.latent_channels != network.config.channels:
        raise ArtifactError(
            f"generator.vae: {vae} has {decoder.config.latent_channels} latent channels, the transformer of {model} "
            f"wants {network.config.channels}"
        )
    return network, decoder, source


def _transformer(folder: Path, time_features: str | None) -> DiT:
    """The DiT of somebody's pipeline folder."""
    where, inside = "generator.model", folder / "transformer"
    index = folder / "model_index.json"
    if index.is_file() and (kind := weights.read_config(index, where=where).get("_class_name")) != "DiTPipeline":
        raise ArtifactError(f"{where}: {folder}: a {kind}, wanted a class-conditional DiT (DiTPipeline)")
    if not (inside / CONFIG).is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ArtifactError(
            f"{where}: {folder}: found {there}; wanted transformer/{CONFIG} and its weights (DiTPipeline)"
        )
    weights.read_config(inside / CONFIG, where=where)
    state = weights.read_folder(inside, ["pos_embed.proj.weight"], where=where)
    return read_transformer(inside, time_features, state)


def check_side(network: DiT, vae: AutoencoderKL, *, side: int, channels: int) -> None:
    """Raises a ParameterError unless images of the data set become latents of the size of the transformer."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if network.config.side * factor != side:
        raise ParameterError(
            f"data.side: found {side} px, this generator makes {network.config.side * factor} px "
            f"({network.config.side} latent pixels, {factor} px each)"
        )
    if vae.config.in_channels != channels:
        raise ParameterError(
            f"data.channels: found {channels}, the VAE of this generator wants {vae.config.in_channels}"
        )


def read_original(path: Path, *, heads: int | None, time_features: str = "original") -> DiT:
    """A DiT from a checkpoint with the parameter names of its authors; any depth and width.

    What wraps the weights and their names is taken off (:func:`ims3core.data.weights.read`), an average wins. The sizes
    are read off the weights.

    Raises:
        ArtifactError: if it is truncated, a pickle with code, or keys are missing, left over or of another shape.
    """
    state = weights.read(path, ["x_embedder.proj.weight"], where="generator.model")
    return _from_original(state, path, heads, time_features)


def original_config(path: Path, *, heads: int | None) -> DitConfig:
    """The sizes of the DiT that :func:`read_original` reads, off names and shapes; no weight is loaded."""
    state = weights.read_sizes(path, ["x_embedder.proj.weight"], where="generator.model")
    return _from_original(state, path, heads, "original").config


def _from_original(state: dict[str, torch.Tensor], path: Path, heads: int | None, time_features: str) -> DiT:
    """The DiT of weights under the names of its authors, which come from ``path``."""
    where, rest = "generator.model", dict(state)

    def take(key: str, dimensions: int | None = None) -> torch.Tensor:
        if key not in rest:
            raise ArtifactError(
                f"{where}: {path}: key {key} is missing; not a class-conditional checkpoint of DiT's authors"
            )
        if dimensions is not None and rest[key].ndim != dimensions:
            raise ArtifactError(
                f"{where}: {path}: {key} has shape {tuple(rest[key].shape)}, wanted {dimensions} dimensions"
            )
        return rest.pop(key)

    blocks = [re.match(r"blocks\.(\d+)\.", key) for key in rest]
    depth = 1 + max((int(match[1]) for match in blocks if match), default=-1)
    positions, labels = take("pos_embed", 3), take("y_embedder.embedding_table.weight", 2)
    ours = {"y_embedder.weight": labels, "patch_embedder.weight": take("x_embedder.proj.weight", 4)}
    names = list(OUTER.items())
    names += [(f"blocks.{n}.{theirs}", f"blocks.{n}.{name}") for n in range(depth) for theirs, name in INNER.items()]
    for theirs, name in names:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" not in ours:
                ours[f"{name}.{kind}"] = take(f"{theirs}.{kind}")
    if rest:
        raise ArtifactError(f"{where}: {path}: unexpected key {sorted(rest)[0]} ({len(rest)} in all)")
    if len(labels) == 1000:
        raise ArtifactError(
            f"{where}: {path}: its table has 1000 rows, ImageNet's classes and no null class, which guidance needs"
        )
    width, channels, patch, _ = ours["patch_embedder.weight"].shape
    heads = heads or HEADS.get(width)
    if heads is None:
        raise ParameterError(
            f"generator.heads: found null; {path.name} has width {width}, which says nothing about its heads"
        )
    if width % heads:
        raise ParameterError(
            f"generator.heads: found {heads}, the width {width} of {path.name} cannot be divided by it"
        )
    side = round(positions.shape[1] ** 0.5) * patch
    config = DitConfig(
        channels=channels, side=side, patch=patch, width=width, depth=depth, heads=heads,
        classes=len(labels) - 1, norm_eps=NORM_EPS, time_features=time_features,
    )  # fmt: skip
    return assemble(config, ours, name=str(path))


def _vae(name: str) -> AutoencoderKL:
    """The VAE that ``generator.vae`` names: a published one, a folder, or one file with Stable Diffusion's sizes."""
    path = Path(name).expanduser()
    if path.suffix in FILES and not path.is_dir():
        return single_file_autoencoder(path, where="generator.vae")
    folder, _ = _folder(VAES.get(name, name), None, key="generator.vae")
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"generator.vae: {folder}: found no {CONFIG}, wanted a folder of an AutoencoderKL")
    kind = weights.read_config(folder / CONFIG, where="generator.vae").get("_class_name", KIND)
    if kind != KIND:
        raise ArtifactError(f"generator.vae: {folder / CONFIG}: a {kind}, wanted an AutoencoderKL")
    weights.read_folder(folder, (), where="generator.vae")  # what is wrong with the files is said better here
    return read_autoencoder(folder)


def _folder(name: str, revision: str | None, *, key: str) -> tuple[Path, str]:
    """A local folder as it is, or a hub repository through its local cache; and what to call it."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, folder.name
    if folder.is_file():
        raise ParameterError(f"{key}: {name}: a file of another kind, wanted a folder or one of {', '.join(FILES)}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ParameterError(f"{key}: {name}: no such file or folder, and not a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from ims3core.base.hub import cache_if_unreachable

    patterns = ["*.json", "transformer/*", "vae/*", "scheduler/*", "diffusion_pytorch_model.*"]
    try:
        with cache_if_unreachable():
            snapshot = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        pinned = f" --revision {revision}" if revision else ""
        raise ParameterError(
            f"{key}: {name} is not in the local hub cache and cannot be downloaded ({type(error).__name__}); "
            f"where there is a network run `hf download {name}{pinned} --local-dir {name.split('/')[1]}` "
            f"and name that folder in {key}"
        ) from error
    return snapshot, f"{name}@{snapshot.name}"
