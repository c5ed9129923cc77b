"""The generator directory: a diffusers ``DiTPipeline`` (transformer, VAE, scheduler), read and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ims3core.base import files
from ims3core.base.records import EXACT, Record, stale
from ims3core.base.schema import Count, OpenFraction
from ims3core.diffusion import difffit
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.dit_layout import read_transformer, write_transformer
from ims3core.diffusion.schedule import Schedule, linear_schedule

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
}


class Scheduler(Record):
    """The part of a diffusers scheduler's configuration that says how a generator was trained."""

    model_config = EXACT | {"extra": "ignore"}

    beta_schedule: Literal["linear"]
    num_train_timesteps: Count
    beta_start: OpenFraction
    beta_end: OpenFraction


class GeneratorFacts(Record):
    """What the manifest of a generator says of it."""

    source: str
    weights: Count | None = None
    precision: str | None = None


class AdaptedFacts(Record):
    """What the manifest of a fine-tuning says of it."""

    loss: str
    precision: str | None = None
    phase: Count | None = None


def write_generator(directory: Path, network: DiT, vae: AutoencoderKL) -> None:
    """Writes a complete pipeline directory that ``DiTPipeline.from_pretrained`` loads."""
    write_transformer(directory / "transformer", network)
    vae.save_pretrained(directory / "vae", safe_serialization=True)
    config = files.read_json(directory / "vae" / "config.json")
    config.pop("_name_or_path", None)  # where it was read from: a path, which would make equal models unequal bytes
    files.write_json(directory / "vae" / "config.json", config)
    files.write_json(directory / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    files.write_json(directory / "model_index.json", index)


def read_schedule(directory: Path) -> Schedule:
    """The training noise schedule of the generator in ``directory``; only DiT's linear one is read."""
    path = directory / "scheduler" / "scheduler_config.json"
    config: Scheduler = files.read_json(path, Scheduler)
    return linear_schedule(config.num_train_timesteps, config.beta_start, config.beta_end)


def read_adapted(generator: Path, adapted: Path, phase: int = 0) -> DiT:
    """The transformer of ``generator`` with the fine-tuned weights of ``adapted`` in place, those of one phase."""
    network = read_transformer(generator / "transformer")
    facts: AdaptedFacts = files.read_manifest(adapted, "adapted", AdaptedFacts)
    if facts.loss != "none":
        difffit.apply_delta(network, adapted / delta_name(None if facts.phase is None else phase))
    return network


def load_phase(network: DiT, adapted: Path, phase: int) -> None:
    """Replaces the fine-tuned weights of ``network``, in place, by those of another ``phase`` in ``adapted``."""
    difffit.apply_delta(network, adapted / delta_name(phase))


def delta_name(phase: int | None) -> str:
    """The file of the fine-tuned weights: of all classes, or of one phase."""
    return difffit.DELTA if phase is None else f"phase-{phase:04d}.safetensors"


def phases(labels: torch.Tensor, size: int | None) -> torch.Tensor:
    """The phase of fine-tuning that each of ``labels`` (N,) belongs to: ``size`` classes each, by rising label."""
    rank = labels.unique(return_inverse=True)[1]
    return torch.zeros_like(rank) if size is None else rank // size


def phase_of(labels: torch.Tensor, adapted: Path) -> torch.Tensor | None:
    """The phase in ``adapted`` of each class of generator label ``labels`` (C,); None: one network for all."""
    size = files.read_manifest(adapted, "adapted", AdaptedFacts).phase
    if size is None:
        return None
    found, wanted = len(list(adapted.glob("phase-*.safetensors"))), -(-len(labels.unique()) // size)
    if found != wanted:
        raise stale(adapted / files.MANIFEST, f"facts.phase: found {size}, of {found} phases; wanted {wanted} of them")
    return phases(labels, size)
