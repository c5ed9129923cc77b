"""What every row costs, in numbers that do not depend on the machine: network calls, steps, real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ims3core.base import files
from ims3core.data import SplitFacts
from ims3core.report.artifacts import read_losses

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ["method", "generated_images", "sampling_calls", "finetuning_passes", "generator_steps", "real_images"]


def frame(params: Params, root: Path, *, classes: int) -> pd.DataFrame:
    """One row per method: what making all its sets takes, shared pools and fine-tuning counted in full for each.

    ``sampling_calls`` and ``finetuning_passes`` are forward passes of one image (a guided call counts two, a pass
    back as one forward); ``real_images`` is how many real training images the row looks at.
    """
    real = files.read_facts(root / "data/real/train", "split", SplitFacts).images
    return pd.DataFrame([_row(params, root, name, classes, real) for name in params.eval.methods], columns=COLUMNS)


def _row(params: Params, root: Path, name: str, classes: int, real: int) -> tuple[str | int, ...]:
    start, _ = params.lineage(name)
    row = params.methods[start].pool
    pool, spec = params.pool(row), params.pool_spec(row, classes=classes)
    if pool.source.indexed:
        return (name, 0, 0, 0, 0, real)
    images = spec.draws * classes * sum(map(spec.count, spec.ipcs))
    calls = images * pool.source.network_calls(spec) + pool.guide.network_calls(real // classes) * classes
    passes, adaptation = 0, params.adaptation(pool.row.adaptation)
    if adaptation.trains:
        curve = read_losses(root / "data/adapted" / pool.row.adaptation / "curve.csv")
        passes = round(len(curve) * min(params.finetune.batch_size, real) * adaptation.passes())
    generator = params.generator
    steps = generator.steps if generator.source == "train" and pool.source.sampled else 0
    return (name, images, calls, passes, steps, real)
