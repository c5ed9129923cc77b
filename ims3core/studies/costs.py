"""What a study will take by `ims3 plan`'s figures: every stage once for every setting that changes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.shell import axes

if TYPE_CHECKING:
    from typing import Any

    from ims3core.params import Params
    from ims3core.params.sections import Study
    from ims3core.studies.settings import Setting

START_UP = 10.0  # seconds that DVC takes around the stages of one experiment
PHASES = {  # where in the graph a section begins to matter; entries of axes and anything else: below
    "seed": 0, "data": 0, "generator": 1, "encoder": 2, "teacher": 2, "augment": 2, "latents": 3, "adaptations": 4,
    "finetune": 4, "ema": 4, "guides": 5, "pools": 6, "candidates": 6, "features": 7, "centroids": 8, "methods": 9,
    "refined": 10,
}  # fmt: skip
AXIS_PHASES = {"adaptations": 4, "guides": 5, "sources": 6, "samplers": 6, "selections": 9, "refinements": 10}
STAGES = ("prepare", "generator", "encoder", "teacher", "latents", "finetune", "guides", "candidates", "features",
          "centroids", "select", "refine")  # fmt: skip
STAGE_PHASES = dict(zip(STAGES, (0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10), strict=True))
SKIPPED = ("full_data", "report", "labels")


def phase_of(key: str) -> int:
    """How far down the graph a key of params.yaml first matters."""
    section = key.split(".")[0]
    if section in PHASES:
        return PHASES[section]
    own = [phase for axis, phase in AXIS_PHASES.items() if section in axes.entries(axis)]
    return min(own, default=len(STAGES))


def seconds(root: Path, params: Params, study: Study, settings: list[Setting]) -> float:
    """The planned seconds of all settings of a study of ``params``, as if only its own grid had been made."""
    from ims3core.base import compute
    from ims3core.planning import rates
    from ims3core.planning.costs import costs, sizes

    made: set[tuple] = set()
    total, here = START_UP * len(settings), compute.machine(**params.compute.model_dump())
    section = params.compute.model_copy(update={"precision": here.precision})
    known = rates.known_or_measured(params.model_copy(update={"compute": section}), root, sizes(params, root))
    for setting in settings:
        for row in costs(setting.params.model_copy(update={"compute": section}), root)[0]:
            stage = row.stage.split("@")[0].split(" ")[0]
            phase = STAGE_PHASES.get(stage, len(STAGES))
            changed = tuple(sorted((key, value) for key, value in _changed(study, setting) if phase_of(key) <= phase))
            if stage in SKIPPED or (not changed and phase < len(STAGES)) or (row.stage, changed) in made:
                continue
            made.add((row.stage, changed))
            total += rates.seconds(row, known)
    return total


def _changed(study: Study, setting: Setting) -> list[tuple[str, Any]]:
    changed = study.fixed | (
        study.settings[setting.labels["setting"]] if study.settings else dict(setting.labels)
    )  # fmt: skip
    return [(key, str(value)) for key, value in changed.items()]
