"""What a run on many workers wants to know of the plan: how long every stage takes, and how much memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.errors import Ims3Error
from ims3core.planning.costs import costs
from ims3core.planning.rates import assumed_rates, seconds

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)
TFLOPS = 0.05  # of a core; only how stages compare matters, a run corrects the rest as it goes


def plan(params: Params, root: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Planned seconds and bytes of memory by address; nothing while the size of the data set is not known."""
    try:
        rows, _ = costs(params, root)
    except Ims3Error as error:
        log.info("no plan yet: %s", error)
        return {}, {}
    rates = assumed_rates(TFLOPS)
    return {row.stage: seconds(row, rates) for row in rows}, {row.stage: row.memory for row in rows}
