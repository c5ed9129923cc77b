"""features: every image of a pool through the frozen encoder (paper 4.2)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core import compute, data, encoders, files, pools, progress, scratch

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/features/<row>: unit-norm features of all images of the pool, with their places."""
    machine, size = compute.machine(**params.compute.model_dump()), params.features.batch_size
    inputs = [root / "data/real/train", root / "data/candidates" / row, root / "data/encoder"]
    key = scratch.fingerprint(params.features.model_dump(), inputs)
    with scratch.workspace(root, f"features-{row}", key, log.warning, machine.team) as work:
        if work.finished_elsewhere:
            return
        pool = pools.read_pool(root / "data/candidates" / row, data.read_split(root / "data/real/train"))
        encoder = encoders.read_encoder(root / "data/encoder").to(machine.device)
        paths = [work.path / f"piece-{number:06d}.safetensors" for number in range(-(-len(pool.images) // size))]
        for number in progress.track(machine.team.mine(len(paths)), label=f"features {row}"):
            if not paths[number].is_file():
                with torch.inference_mode():
                    images = pool.images[number * size : (number + 1) * size].to(machine.device)
                    files.write_tensors(paths[number], {"features": encoder.features(images)})
        machine.team.barrier()
        facts = {}
        if machine.team.leads:
            features = torch.cat([files.read_tensors(path)["features"] for path in paths])
            pools.write_features(work.staged / "features.safetensors", features, pool.place)
            facts = {"images": len(features), "dim": features.shape[1]}
        work.publish(root / "data/features" / row, "features", **facts)
