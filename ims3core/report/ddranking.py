"""The scores of DD-Ranking (arXiv 2505.13300) from our cells, with accuracies in [0, 1].

Differs: from the package's 0.2.0, which feeds percentages into the exponential, so that its scores leave [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ims3core.report.artifacts import FULL

COLUMNS = ["method", "ipc", "student", "protocol", "hlr", "ior", "lrs", "ars"]


def score(value: float) -> float:
    """(e^value - e^-1) / (e - e^-1): a gain in [-1, 1] as a score in [0, 1]."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust(hlr: float, ior: float, *, weight: float = 0.5) -> float:
    """LRS of the hard-label recovery (lower is better) and the improvement over random (higher is better)."""
    return score(weight * ior - (1 - weight) * hlr)


def augmentation_robust(gain: float, gain_plain: float, *, weight: float = 0.5) -> float:
    """ARS of the improvements over random with and without augmentation."""
    return score(weight * gain + (1 - weight) * gain_plain)


def frame(summary: pd.DataFrame, protocols: Mapping[str, str]) -> pd.DataFrame:
    """HLR, IOR, LRS and ARS of every row under every protocol; empty where a cell that they need is not in the grid.

    HLR is full data less the row, both with hard labels (the first protocol of that kind); IOR the row less Random
    under the protocol itself; ARS compares a protocol ``<name>`` with ``<name>_plain``, the same without augmentation.

    Args:
        protocols: name -> its label type.
    """
    means = {(r.method, r.ipc, r.student, r.protocol): r.mean / 100 for r in summary.itertuples()}
    hard = next((name for name, labels in protocols.items() if labels == "hard"), None)
    rows = []
    for method, ipc, student, protocol in means:
        if FULL in (method, ipc) or protocol.endswith("_plain"):
            continue

        def mean(of: str, k: str, rules: str | None, student: str = student) -> float:
            return means.get((of, k, student, rules), math.nan)

        def gain(rules: str, method: str = method, ipc: str = ipc) -> float:
            return mean(method, ipc, rules) - mean("random", ipc, rules)

        recovered, improved = mean(FULL, FULL, hard) - mean(method, ipc, hard), gain(protocol)
        robust = augmentation_robust(improved, gain(f"{protocol}_plain"))
        rows.append((method, ipc, student, protocol, recovered, improved, label_robust(recovered, improved), robust))
    return pd.DataFrame(rows, columns=COLUMNS)
