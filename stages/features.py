"""features: every image of a pool through the frozen encoder (paper 4.2)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core import compute, data, encoders, files, pools, progress

if TYPE_CHECKING:
    from ims3core.params import Params


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/features/<row>: unit-norm features of all images of the pool, with their places."""
    machine = compute.machine(**params.compute.model_dump())
    pool = pools.read_pool(root / "data/candidates" / row, data.read_split(root / "data/real/train"))
    encoder = encoders.read_encoder(root / "data/encoder").to(machine.device)
    batches = -(-len(pool.images) // params.features.batch_size)
    features = encoders.embed(
        encoder, pool.images, batch_size=params.features.batch_size,
        progress=partial(progress.track, label=f"features {row}", total=batches),
    )  # fmt: skip
    staged = root / "scratch" / f"features-{row}"
    pools.write_features(staged / "features.safetensors", features, pool.place)
    files.write_manifest(staged, "features", images=len(features), dim=features.shape[1])
    files.replace_directory(staged, root / "data/features" / row)
