"""Reads weights that other programs saved: from any of the usual files, as one flat dictionary of tensors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ims3core.base.formats import disguised_as
from ims3core.base.library_errors import reason
from ims3core.errors import ArtifactError

WRAPPERS = ("ema", "state_dict_ema", "model_ema", "model", "state_dict", "module", "net", "network")
"""Keys under which training scripts keep the weights, the averaged ones first."""
STEM = "diffusion_pytorch_model"


def read(path: Path, like: Collection[str], *, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, as float32 where they are floats.

    A training checkpoint gives what is under one of :data:`WRAPPERS`; what wrappers put before the names (``module.``,
    ``_orig_mod.``, a Lightning module's attribute) goes, wherever it is.

    Args:
        like: a name or more that such weights have.
        where: the key of params.yaml, for messages.

    Raises:
        ArtifactError: naming the file: missing, cut short, something else, a pickle with code, or not numbers.
    """
    place = f"{where}: {path}"
    state = _unwrapped(_loaded(path, place), place)
    state = _unprefixed(state, like)
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ArtifactError(f"{place}: {name} holds values that are not numbers; a training that diverged?")
    return state


def read_sizes(path: Path, like: Collection[str], *, where: str) -> dict[str, torch.Tensor]:
    """As :func:`read`, but names and shapes alone: tensors on the meta device, and no value is read into memory."""
    place = f"{where}: {path}"
    if path.suffix == ".safetensors" and path.is_file():
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as content:
                sizes = {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
        except Exception as error:
            raise ArtifactError(f"{place}: not a complete safetensors file ({reason(error)})") from error
        return _unprefixed({name: torch.empty(size, device="meta") for name, size in sizes.items()}, like)
    with_sizes = torch.utils._pytree.tree_map_only(torch.Tensor, lambda value: value.to("meta"), _loaded(path, place))
    return _unprefixed(_unwrapped(with_sizes, place), like)


def read_folder(folder: Path, like: Collection[str], *, where: str) -> dict[str, torch.Tensor]:
    """The weights in a folder of diffusers' layout: whole or in shards, safetensors or older, also fp16 alone."""
    for half in ("", ".fp16"):
        for ending in ("safetensors", "bin"):
            # diffusers puts the variant before the ending, and between the parts of an index's name
            for name in (f"{STEM}{half}.{ending}", f"{STEM}.{ending}.index{half}.json",
                         f"{STEM}{half}.{ending}.index.json"):  # fmt: skip
                if (path := folder / name).is_file():
                    return _read_shards(path, like, where) if name.endswith(".json") else read(path, like, where=where)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    content = f"found {', '.join(names[:6])}" if names else "an empty folder" if folder.is_dir() else "no such folder"
    raise ArtifactError(f"{where}: {folder}: {content}; wanted {STEM}.safetensors or its shards")


def read_config(path: Path, *, where: str) -> dict[str, Any]:
    """The object in a model's JSON file.

    Raises:
        ArtifactError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise ArtifactError(
            f"{where}: {path}: {disguised_as(path) or f'not readable as JSON ({reason(error)})'}"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: {path}: holds a {type(content).__name__}, wanted an object")
    return content


def _read_shards(index: Path, like: Collection[str], where: str) -> dict[str, torch.Tensor]:
    """All shards that an index names."""
    shards = read_config(index, where=where).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ArtifactError(f"{where}: {index}: not an index of shards, wanted weight_map")
    names = sorted(set(map(str, shards.values())))
    state: dict[str, torch.Tensor] = {}
    for name in names:
        if not (index.parent / name).is_file():
            raise ArtifactError(f"{where}: {index.parent / name}: no such file; {index.name} names it")
        state |= read(index.parent / name, (), where=where)
    return _unprefixed(state, like)


def _loaded(path: Path, place: str) -> Any:
    if not path.exists():
        raise ArtifactError(f"{place}: no such file")
    if not path.is_file():
        raise ArtifactError(f"{place}: a folder, wanted a file of weights")
    if disguise := disguised_as(path):
        raise ArtifactError(f"{place}: {disguise}")
    if path.suffix in (".npz", ".npy") or (zipfile.is_zipfile(path) and _is_numpy(path)):
        raise ArtifactError(f"{place}: a numpy archive, wanted a state dictionary (.safetensors, .pth, .pt, .bin)")
    if path.suffix == ".safetensors":
        return _safetensors(path, place)
    return _pickled(path, place)


def _is_numpy(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist()) and all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # whatever zipfile raises on a damaged archive
        return False


def _safetensors(path: Path, place: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise ArtifactError(
            f"{place}: not a complete safetensors file, cut short or damaged ({reason(error)})"
        ) from error


def _pickled(path: Path, place: str) -> Any:
    """The content of a pickle that holds tensors and plain values alone, memory-mapped."""
    import argparse
    import pickle

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training settings, kept by DiT's own script
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            except RuntimeError:
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise ArtifactError(
                f"{place}: a pickle that holds more than weights (a whole model?), and loading it could run code; "
                "save model.state_dict() instead"
            ) from error
        raise ArtifactError(f"{place}: not a complete checkpoint, damaged or no checkpoint at all") from error
    except Exception as error:
        raise ArtifactError(f"{place}: not a complete checkpoint, cut short or damaged ({reason(error)})") from error


def _unwrapped(content: Any, place: str) -> dict[str, torch.Tensor]:
    """The dictionary of tensors in a checkpoint."""
    for _ in range(3):
        if not isinstance(content, dict):
            raise ArtifactError(f"{place}: holds a {type(content).__name__}, wanted a state dictionary")
        if keys := [key for key in WRAPPERS if isinstance(content.get(key), dict) and _tensors(content[key])]:
            content = content[keys[0]]
    state = _tensors(content)
    if not state:
        raise ArtifactError(f"{place}: holds {', '.join(map(str, list(content)[:5])) or 'nothing'}, and no weights")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _tensors(content: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a dictionary; those of the first dictionary in it where it holds none itself."""
    tensors = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[str(key)] = value
        elif isinstance(value, dict) and not tensors and any(isinstance(v, torch.Tensor) for v in value.values()):
            return value
    return tensors


def _unprefixed(state: dict[str, torch.Tensor], like: Collection[str]) -> dict[str, torch.Tensor]:
    """``state`` without what stands before the names ``like``; of several copies the averaged one (``ema``)."""
    for parameter in like:
        prefixes = [name.removesuffix(parameter) for name in state if name.endswith(parameter)]
        prefixes = [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]
        if prefixes:
            best = min(prefixes, key=lambda prefix: ("ema" not in prefix, len(prefix)))
            return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
    return state
