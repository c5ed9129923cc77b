"""What a study will take by `ims3 plan`'s figures: every stage once for every setting that changes it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.shell import axes, code

if TYPE_CHECKING:
    from typing import Any

    from ims3core.params import Params
    from ims3core.params.sections import Study
    from ims3core.studies.settings import Setting

START_UP = 10.0  # seconds that DVC takes around the stages of one experiment
AXIS = re.compile(r"ims3core/(\w+)/\$\{")  # the axis of an entry that dvc.yaml names by template
SKIPPED = ("report", "labels")


@cache
def affected(key: str) -> list[str]:
    """The stages of dvc.yaml that a key of params.yaml changes: those that name its section or entry, and what follows.

    A row of a table counts as all rows of its stage.
    """
    section, stages = key.split(".")[0], {name: entry.get("do", entry) for name, entry in code.stages().items()}
    changed: list[str] = []
    made: list[str] = []
    for name, stage in stages.items():  # in the order of the graph
        own = AXIS.findall(" ".join(stage["deps"]))
        names_it = section in {param.split(".")[0] for param in stage["params"]}
        names_it |= any(section in axes.entries(folder) for folder in own)
        if names_it or any(_same(dep, out) for dep in stage["deps"] for out in made):
            changed.append(name)
            made += [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]
    return changed


def _same(dep: str, out: str) -> bool:
    """Whether a dependency can be (a part of) an output, both with what stands for a row cut off."""
    dep, out = dep.split("${")[0], out.split("${")[0]
    return bool(dep) and (dep.startswith(out) or out.startswith(dep))


def seconds(root: Path, params: Params, study: Study, settings: list[Setting]) -> float:
    """The planned seconds of all settings of a study of ``params``, as if only its own grid had been made."""
    from ims3core.base import compute
    from ims3core.planning import rates
    from ims3core.planning.costs import costs
    from ims3core.planning.units import sizes

    made: set[tuple] = set()
    total, here = START_UP * len(settings), compute.machine(**params.compute.model_dump())
    section = params.compute.model_copy(update={"precision": here.precision})
    known = rates.known_or_measured(params.model_copy(update={"compute": section}), root, sizes(params, root))
    for setting in settings:
        for row in costs(setting.params.model_copy(update={"compute": section}), root)[0]:
            stage = row.stage.split("@")[0].split(" ")[0]
            changed = tuple(
                sorted((key, value) for key, value in _changed(params, study, setting) if stage in affected(key))
            )
            wanted = stage not in SKIPPED and (stage != "full_data" or "gap" in study.measures)
            wanted &= bool(changed) or stage in ("students", "full_data")
            if not wanted or (row.stage, changed) in made:
                continue
            made.add((row.stage, changed))
            total += rates.seconds(row, known)
    return total


def _changed(params: Params, study: Study, setting: Setting) -> list[tuple[str, Any]]:
    changed = study.fixed | (
        study.settings[setting.labels["setting"]] if study.settings else dict(setting.labels)
    )  # fmt: skip
    if setting.params.seed != params.seed:
        changed |= {"seed": setting.params.seed}
    return [(key, str(value)) for key, value in changed.items()]
