"""Real images and distilled sets on one t-SNE plane of the encoder's features (paper Fig. 1, 7, 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.report import artifacts, tables

if TYPE_CHECKING:
    import pandas as pd

    from ims3core.params import Params


def plane(
    params: Params, root: Path, manifests: Mapping[str, artifacts.Manifest], *, classes: list[str]
) -> pd.DataFrame:
    """kind, class, x, y of evenly spaced real images and of the sets of ``manifests``, by row.

    A row of ``refined`` is left out: its images are in no pool, so that no features of them are known.
    """
    pool_of = {name: params.methods[name].pool for name in manifests if name in params.methods}
    pools = {pool: artifacts.read_features(root, pool=pool) for pool in dict.fromkeys([tables.REAL, *pool_of.values()])}
    real = pools[tables.REAL]
    groups = {tables.REAL: real.subset(tables.evenly_spaced(real.class_index, per_class=params.report.tsne_real))}
    groups |= {name: pools[pool].subset(pools[pool].rows(manifests[name])) for name, pool in pool_of.items()}
    return tables.tsne(groups, classes=classes)
