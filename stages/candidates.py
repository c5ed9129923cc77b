"""candidates: a pool of images to select from, generated or real (paper Algorithm 2)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import compute
from ims3core.data import pools
from ims3core.data.inputs import Inputs
from ims3core.shell import code, progress, scratch

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/candidates/<row>: shards of images with seeds and latents, or an index of the real ones."""
    pool, machine = params.pool(row), compute.machine(**params.compute.model_dump())
    data = root / "data"
    inputs = Inputs(
        data / "real", data / "generator", data / "adapted" / pool.row.adaptation, data / "guides" / pool.row.guide
    )
    sampled = pool.source.module.SAMPLED
    wanted = pools.wanted(
        pool, seed=params.seed, draws=params.eval.draws, ipc=params.eval.ipc, classes=len(inputs.classes),
        compiled=params.compute.compile, blocks=inputs.blocks if sampled else (),
    )  # fmt: skip
    facts = [params.seed, pool.facts, machine.precision, params.compute.compile]
    facts += [row.generator_label for row in inputs.classes]
    read = [inputs.generator, inputs.adapted, inputs.guide] if sampled else [inputs.real / "train"]
    key = scratch.fingerprint(facts, read, code.digest("candidates", **pool.row.model_dump()))
    extent = [wanted.draws, wanted.per_class, wanted.ipcs]
    with scratch.workspace(root, f"candidates-{row}", key, log.warning, machine.team, extent=extent) as work:
        if work.finished_elsewhere:
            return
        found = _make(row, pool, inputs, wanted, work, machine)
        work.publish(root / "data/candidates" / row, "pool", source=pool.source.name, **found)


def _make(row, pool, inputs: Inputs, wanted: pools.Wanted, work: scratch.Workspace, machine: compute.Machine) -> dict:
    """Makes the shards that are not there yet; returns what the manifest says of the pool."""
    if pool.source.module.maker is None:
        work.staged.mkdir(exist_ok=True)
        return {"indexed": True, "images": len(inputs.train.images)}
    shards = list(wanted.shards())
    names = [pools.part_name(spots) for spots in shards]
    mine, count = machine.team.mine(len(shards)), sum(map(len, shards))
    missing = [n for n in mine if not work.has(names[n])]
    if missing:
        make = pool.source.module.maker(inputs, wanted, machine, **pool.source.values)
        log.info("%s: %d images in %d shards, %d to do here, on %s", row, count, len(shards), len(missing), machine)
    for n in progress.track(missing, label=f"candidates {row}", done=len(mine) - len(missing)):
        parts, known = _known(work, shards[n])
        made = pools.joined([*parts, make(shards[n][known:])])
        pools.write_shard(work.path / names[n], made, shards[n], [wanted.seed(spot) for spot in shards[n]])
    machine.team.barrier()
    if machine.team.leads:
        for n, name in enumerate(names):
            work.use(name, f"shard-{n:05d}.safetensors")
    precision = {"precision": machine.precision} if pool.source.module.SAMPLED else {}
    return {"indexed": False, "images": count, **precision}


def _known(work: scratch.Workspace, spots: list[pools.Spot]) -> tuple[list[pools.Made], int]:
    """What a smaller pool had of this shard, and how many images that are: only new ones are made."""
    for shorter in range(len(spots) - 1, 0, -1):
        if work.has(name := pools.part_name(spots[:shorter])):
            return [pools.read_made(work.path / name)], shorter
    return [], 0
