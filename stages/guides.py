"""guides: what a sampler will know of the real latents, prepared once per class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import data
from ims3core.base import compute, files
from ims3core.diffusion import latents
from ims3core.shell import code, progress, scratch

if TYPE_CHECKING:
    from ims3core.diffusion.sampling import Denoiser
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/guides/<row>: tensors of every class; the folder is empty for ``none``."""
    guide, machine = params.guide(row), compute.machine(**params.compute.model_dump())
    wanted, asks = params.guides[row], guide.name != "none" and guide.module.NETWORK
    inputs = [root / "data/latents"]
    if asks:
        inputs += [root / "data/generator", root / "data/adapted" / wanted.adaptation]
    rows = data.read_classes(root / "data/real/classes.json")
    facts = [params.seed, guide.facts, machine.precision if asks else None, [row.generator_label for row in rows]]
    key = scratch.fingerprint(facts, inputs, code.digest("guides", **wanted.model_dump()))
    with scratch.workspace(root, f"guides-{row}", key, log.warning, machine.team) as work:
        if work.finished_elsewhere:
            return
        if guide.name == "none":
            work.staged.mkdir(exist_ok=True)
        else:
            cached = latents.read(root / "data/latents")
            denoiser = _denoiser(root, wanted.adaptation, machine) if asks else None
            for c in progress.track(machine.team.mine(len(rows)), label=f"guide {row}"):
                if not work.has(name := f"class-{c:04d}.safetensors"):
                    own = cached.mean[0][cached.label == rows[c].generator_label]
                    prepared = guide.module.prepare(own, denoiser, rows[c].generator_label, **guide.values)
                    files.write_tensors(work.path / name, prepared)
            machine.team.barrier()
            if machine.team.leads:
                for c in range(len(rows)):
                    work.use(f"class-{c:04d}.safetensors")
        # The values that only the sampler uses are facts too: a pool that stands on them runs again.
        work.publish(root / "data/guides" / row, "guide", **guide.facts)


def _denoiser(root: Path, adaptation: str, machine: compute.Machine) -> Denoiser:
    from ims3core.diffusion.generator import read_adapted, read_schedule
    from ims3core.diffusion.sampling import Denoiser

    files.read_manifest(root / "data/generator", "generator")
    network = read_adapted(root / "data/generator", root / "data/adapted" / adaptation)
    schedule, null_label = read_schedule(root / "data/generator"), network.config.classes
    with torch.inference_mode():
        call = machine.frozen(network)
    return Denoiser(call, schedule, null_label, machine.device, machine.dtype)
