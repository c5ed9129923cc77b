"""candidates: a pool of images to select from, generated or real (paper Algorithm 2)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import compute, data, files, pools, progress, scratch
from ims3core.errors import ParameterError

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/candidates/<row>: shards of generated images with their seeds, or an index of the real ones."""
    pool, wanted = params.pools[row], params.candidates
    machine = compute.machine(**params.compute.model_dump())
    adapted = root / "data/adapted" / pool.adaptation
    if pool.source == "real":
        facts: list = [pool.model_dump()]
        inputs = [root / "data/real/train"]
    else:
        facts = [params.seed, pool.model_dump(), wanted.model_dump(), params.eval.draws,
                 machine.precision, params.compute.compile]  # fmt: skip
        inputs = [root / "data/generator", adapted]
    key = scratch.fingerprint(facts, inputs)
    with scratch.workspace(root, f"candidates-{row}", key, log.warning, machine.team) as work:
        if work.finished_elsewhere:
            return
        if pool.source == "real":
            found = {"images": len(data.read_split(root / "data/real/train").images)}
            work.staged.mkdir(exist_ok=True)
        else:
            count = _generate(params, root, row, work.staged, machine)
            found = {"images": count, "precision": machine.precision}
        work.publish(root / "data/candidates" / row, "pool", source=pool.source, **found)


def _generate(params: Params, root: Path, row: str, out: Path, machine: compute.Machine) -> int:
    from ims3core.diffusion import autoencoder, generator, samplers
    from ims3core.diffusion.schedule import respace

    pool, wanted = params.pools[row], params.candidates
    files.read_manifest(root / "data/generator", "generator")
    network = generator.read_adapted(root / "data/generator", root / "data/adapted" / pool.adaptation)
    config = network.config
    if wanted.guided_channels > config.channels:
        raise ParameterError(
            f"candidates.guided_channels: found {wanted.guided_channels}, "
            f"the generator's latents have {config.channels}"
        )
    labels = data.generator_labels(root / "data/real/classes.json", config.classes)
    schedule = respace(generator.read_schedule(root / "data/generator"), wanted.steps)
    vae = autoencoder.read_autoencoder(root / "data/generator/vae").to(machine.device)
    plan = list(pools.shards(
        draws=params.eval.draws, classes=len(labels), per_class=wanted.per_class, batch_size=wanted.batch_size
    ))  # fmt: skip
    count = sum(len(members) for _, members in plan)
    fullest = max(len(members) for _, members in plan)
    mine = machine.team.mine(len(plan))
    missing = [(n, *plan[n]) for n in mine if not _shard(out, n).is_file()]
    log.info("%s: %d images in %d shards, %d to do here, on %s", row, count, len(plan), len(missing), machine)
    call = machine.frozen(network)
    shape = (config.channels, config.side, config.side)
    for number, draw, members in progress.track(missing, label=f"candidates {row}", done=len(mine) - len(missing)):
        seeds = [pools.candidate_seed(params.seed, pool.purpose, draw, c, i) for c, i in members]
        # Another batch size would compile the network once more, which takes longer than a few images too many.
        padded = fullest if machine.compile else len(members)
        rows = [n % len(members) for n in range(padded)]
        streams = samplers.NoiseStreams([torch.Generator().manual_seed(seeds[n]) for n in rows], shape)
        with torch.inference_mode():
            latents = samplers.sample(
                call, schedule, labels[[members[n][0] for n in rows]], streams,
                sampler=pool.sampler, null_label=config.classes, guidance=wanted.guidance,
                guided_channels=wanted.guided_channels, device=machine.device, dtype=machine.dtype,
            )  # fmt: skip
        pools.write_shard(_shard(out, number), autoencoder.decode(vae, latents[: len(members)]), draw, members, seeds)
    return count


def _shard(out: Path, number: int) -> Path:
    return out / f"shard-{number:05d}.safetensors"
