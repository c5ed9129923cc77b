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
            generator = _Generator(root, wanted.adaptation, rows, machine) if asks else None
            for c in progress.track(machine.team.mine(len(rows)), label=f"guide {row}"):
                if not work.has(name := f"class-{c:04d}.safetensors"):
                    own = cached.mean[0][cached.label == rows[c].generator_label]
                    denoiser = generator.of_class(c) if asks else None
                    prepared = guide.module.prepare(own, denoiser, rows[c].generator_label, **guide.values)
                    files.write_tensors(work.path / name, prepared)
            machine.team.barrier()
            if machine.team.leads:
                for c in range(len(rows)):
                    work.use(f"class-{c:04d}.safetensors")
        # The values that only the sampler uses are facts too: a pool that stands on them runs again.
        work.publish(root / "data/guides" / row, "guide", **guide.facts)


class _Generator:
    """The adapted generator as a denoiser, with the weights of the phase that a class belongs to."""

    def __init__(self, root: Path, adaptation: str, rows: list[data.ClassRow], machine: compute.Machine) -> None:
        from ims3core.diffusion import generator
        from ims3core.diffusion.sampling import Denoiser

        folder, self.adapted = root / "data/generator", root / "data/adapted" / adaptation
        files.read_manifest(folder, "generator")
        self.network, schedule = generator.read_adapted(folder, self.adapted), generator.read_schedule(folder)
        self.phase = generator.phase_of(torch.tensor([row.generator_label for row in rows]), self.adapted)
        null_label = self.network.config.classes
        with torch.inference_mode():
            call = machine.frozen(self.network, parts=self.network.compiled_parts, constant=self.phase is None)
        self.denoiser = Denoiser(call, schedule, null_label, machine.device, machine.dtype)

    def of_class(self, c: int) -> Denoiser:
        from ims3core.diffusion.generator import turn_to

        if self.phase is not None:
            with torch.inference_mode():
                turn_to(self.network, self.adapted, int(self.phase[c]))
        return self.denoiser
