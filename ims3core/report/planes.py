"""Real images and distilled sets on one t-SNE plane of the encoder's features (paper Fig. 1, 7, 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.report import tables
from ims3core.report.artifacts import REAL

if TYPE_CHECKING:
    import pandas as pd

    from ims3core.params import Params
    from ims3core.report.artifacts import DistilledSet


def plane(params: Params, root: Path, sets: Mapping[str, DistilledSet], *, classes: list[str]) -> pd.DataFrame:
    """kind, class, x, y of evenly spaced real images and of the images of ``sets``, by row.

    A row of ``refinements`` is left out: its images are in no pool, so that they have no features.
    """
    from ims3core.data.pools import read_features

    pool_of = {name: params.methods[name].pool for name in sets if name in params.methods}
    pools = {pool: read_features(root / "data/features" / pool) for pool in dict.fromkeys([REAL, *pool_of.values()])}
    place = pools[REAL][1]
    rows: dict[str, Any] = {REAL: tables.evenly_spaced(place.class_index.numpy(), per_class=params.report.tsne_real)}
    rows |= {name: sets[name].rows(pools[pool][1]) for name, pool in pool_of.items()}
    groups = {}
    for name, chosen in rows.items():
        features, place = pools[pool_of.get(name, REAL)]
        groups[name] = (features[chosen].numpy(), place.class_index[chosen].numpy())
    return tables.tsne(groups, classes=classes)
