"""features: every image of a pool through the frozen encoder (paper 4.2)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import data, encoders
from ims3core.base import compute, files
from ims3core.data import pools
from ims3core.shell import code, progress, scratch

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/features/<row>: unit-norm features of all images of the pool, with their places."""
    machine, size = compute.machine(**params.compute.model_dump()), params.features.batch_size
    folder = root / "data/candidates" / row
    key = scratch.fingerprint(size, [root / "data/encoder"], code.digest("features", key=row))
    extent = files.manifest_digest(folder)
    with scratch.workspace(root, f"features-{row}", key, log.warning, machine.team, extent=extent) as work:
        if work.finished_elsewhere:
            return
        pool = pools.read_pool(folder, data.read_split(root / "data/real/train"))
        pieces = _pieces(root, folder, pool, size)
        encoder = encoders.read_encoder(root / "data/encoder").to(machine.device)
        for number in progress.track(machine.team.mine(len(pieces)), label=f"features {row}"):
            name, rows = pieces[number]
            if not work.has(name):
                with torch.inference_mode():
                    parts = [
                        encoder.features(part.to(machine.device)) for part in data.batches(pool.images[rows], size)
                    ]
                files.write_tensors(work.path / name, {"features": torch.cat(parts)})
        machine.team.barrier()
        facts = {}
        if machine.team.leads:
            features = torch.cat([files.read_tensors(work.path / name)["features"] for name, _ in pieces])
            pools.write_features(work.staged / "features.safetensors", features, pool.place)
            for name, _ in pieces:
                work.keep(name)
            facts = {"images": len(features), "dim": features.shape[1]}
        work.publish(root / "data/features" / row, "features", **facts)


def _pieces(root: Path, folder: Path, pool: pools.Pool, size: int) -> list[tuple[str, slice]]:
    """The parts of the work by what decides their content: a shard, or a batch of the real images."""
    shards = pools.shard_paths(folder)
    if not shards:
        train = files.manifest_digest(root / "data/real/train")[:16]
        starts = range(0, len(pool.images), size)
        return [(f"real-{train}-{first}.safetensors", slice(first, first + size)) for first in starts]
    ends = pools.shard_ends(folder)
    rows = [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    digests = files.read_json(folder / files.MANIFEST)["files"]
    return [(f"{digests[p.name]['sha256'][:32]}.safetensors", own) for p, own in zip(shards, rows, strict=True)]
