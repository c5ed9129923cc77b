"""What every row costs, in numbers that do not depend on the machine: network calls, steps, real images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd

from ims3core.base import files

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ["method", "generated_images", "sampling_calls", "finetuning_passes", "generator_steps", "real_images"]


def frame(params: Params, root: Path, *, classes: int) -> pd.DataFrame:
    """One row per method: what making all its sets takes, shared pools and fine-tuning counted in full for each.

    ``sampling_calls`` and ``finetuning_passes`` are forward passes of one image (a guided call counts two, a pass
    back as one forward); ``real_images`` is how many real training images the row looks at.
    """
    real = files.read_json(root / "data/real/train/manifest.json")["facts"]["images"]
    return pd.DataFrame([_row(params, root, name, classes, real) for name in params.eval.methods], columns=COLUMNS)


def _row(params: Params, root: Path, name: str, classes: int, real: int) -> tuple:
    start, _ = params.lineage(name)
    pool = params.pool(params.methods[start].pool)
    if pool.source.module.maker is None:
        return (name, 0, 0, 0, 0, real)
    count = sum(params.eval.ipc) if pool.per_ipc else pool.per_class
    images = params.eval.draws * classes * count
    wanted = SimpleNamespace(sampler=pool.sampler, guide=pool.guide)
    calls = images * pool.source.module.calls(wanted, **pool.source.values)
    if pool.guide is not None:
        calls += pool.guide.module.calls(real // classes, **pool.guide.values) * classes
    passes, adaptation = 0, params.adaptation(pool.adaptation)
    if adaptation.name != "none":
        steps = len(pd.read_csv(root / "data/adapted" / pool.adaptation / "curve.csv"))
        batch = min(params.finetune.batch_size, real)
        passes = round(steps * batch * adaptation.module.passes(**adaptation.values))
    made = params.generator.steps if params.generator.source == "train" else 0
    return (name, images, calls, passes, made if pool.source.module.SAMPLED else 0, real)
