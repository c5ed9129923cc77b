"""What a study will take by `ims3 plan`'s figures: every stage once for every setting that changes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.studies.definitions import Study
    from ims3core.studies.settings import Setting

START_UP = 10.0  # seconds that DVC takes around the stages of one experiment
SKIPPED = ("report", "labels")


def seconds(root: Path, params: Params, study: Study, settings: list[Setting]) -> float:
    """The planned seconds of all settings of a study of ``params``, as if only its own grid had been made."""
    from ims3core.base import compute
    from ims3core.planning import rates
    from ims3core.planning.costs import costs
    from ims3core.planning.sizes import dataset_size

    made: set[tuple] = set()
    total, here = START_UP * len(settings), compute.machine(**params.compute.model_dump())
    section = params.compute.model_copy(update={"precision": here.precision})
    known = rates.machine_rates(params.model_copy(update={"compute": section}), root, dataset_size(params, root))
    for setting in settings:
        outdated = _outdated(params, study, setting)
        for row in costs(setting.params.model_copy(update={"compute": section}), root)[0]:
            name = row.stage.split("@")[0]
            changed = tuple(sorted(change for change, names in outdated.items() if row.stage in names))
            runs = name not in SKIPPED and (name != "full_data" or "gap" in study.measures)
            runs &= bool(changed) or name in ("students", "full_data")
            if runs and (row.stage, changed) not in made:
                made.add((row.stage, changed))
                total += rates.seconds(row, known)
    return total


def _outdated(params: Params, study: Study, setting: Setting) -> dict[tuple[str, str], set[str]]:
    """For every key with its value that sets ``setting`` apart the names and addresses of the stages it outdates."""
    changes = study.fixed | (study.settings[setting.labels["setting"]] if study.settings else setting.labels)
    if setting.params.seed != params.seed:
        changes |= {"seed": setting.params.seed}
    return {
        (key, str(value)): {name for node in setting.graph.changed_by([key]) for name in (node.stage, node.address)}
        for key, value in changes.items()
    }
