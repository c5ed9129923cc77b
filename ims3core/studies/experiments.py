"""Runs the settings of a study as DVC experiments: in a clone of the last commit that shares DVC's cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from ims3core.base import files
from ims3core.errors import ParameterError
from ims3core.params import Yaml12Dumper
from ims3core.pipeline import checkouts, progress, repro
from ims3core.pipeline.workspace import exclusive
from ims3core.studies import results
from ims3core.studies.settings import settings_of

if TYPE_CHECKING:
    from typing import Any

    from ims3core.pipeline.places import Place
    from ims3core.studies.definitions import Study
    from ims3core.studies.settings import Setting

log = logging.getLogger(__name__)
TARGETS = {  # measure -> the stages it needs
    "accuracy": ["students"], "gap": ["students", "full_data"], "coverage": ["coverage"], "cost": ["select"],
    "diagnostics": ["diagnose"], "plane": ["coverage"],
}  # fmt: skip
CODE = ("ims3core", "stages", "dvc.yaml")


def run(
    root: Path, name: str, tree: dict[str, Any], study: Study, place: Place | None = None
) -> tuple[pd.DataFrame, int]:  # fmt: skip
    """The table of a study with every setting in it, and how many experiments ran.

    Settings that are in the table are not run; it is written after each that was. params.yaml, dvc.lock and the results
    of ``root`` stay as they are.

    Args:
        tree: params.yaml as it stands; uncommitted changes of it count.
        place: where workers are that make the pieces of all settings; None: DVC alone.

    Raises:
        ParameterError: a setting that params.yaml does not allow, uncommitted changes of code, a stage that failed.
    """
    settings = settings_of(name, tree, study)
    frame = results.read(root, name, study.labels)
    frame = frame[frame["key"].isin([setting.key for setting in settings])]
    if "plane" in study.measures and not results.has_plane(root, name, [one.key for one in settings]):
        frame = frame[:0]
    missing = [setting for setting in settings if setting.key not in set(frame["key"])]
    if missing:
        _check_committed(root)
        with (
            exclusive(root / checkouts.HOME / "studies-lock", checkouts.STUDIES),
            repro.shared(missing[0].params, place) as workers,
        ):
            clone = checkouts.prepare_clone(root, checkouts.STUDIES)
            done = len(settings) - len(missing)
            for setting in progress.track(missing, label=f"study {name}", total=len(settings), done=done):
                labels = [f"{key} {value}" for key, value in setting.labels.items()]
                labels += [f"root seed {setting.params.seed}"] if study.root_seeds else []
                log.info("study %s: %s", name, ", ".join(labels) or "one setting")
                _experiment(root, clone, name, study, setting, workers)
                values = results.collect(clone, study, setting)
                if "plane" in study.measures:
                    results.write_plane(root, name, clone, setting)
                frame = pd.concat([frame, values]) if len(frame) else values
                results.write(root, name, frame)
    order = {setting.key: position for position, setting in enumerate(settings)}
    frame = frame.sort_values("key", key=lambda keys: keys.map(order), kind="stable").reset_index(drop=True)
    results.write(root, name, frame)
    return frame, len(missing)


def _check_committed(root: Path) -> None:
    """Raises a ParameterError if code was changed since the last commit, on which DVC runs experiments."""
    if changed := checkouts.uncommitted(root, CODE):
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ParameterError(
            f"{changed[0]}{others}: not in the last commit, on which DVC would run the experiments; commit first, "
            "or put the changes aside with `git stash`"
        )


def _experiment(
    root: Path, clone: Path, name: str, study: Study, setting: Setting, place: Place | None
) -> None:  # fmt: skip
    """``dvc exp run`` of one setting, with the stages that its measures need; workers have made them before."""
    files.write_bytes(clone / "params.yaml", yaml.dump(setting.tree, Dumper=Yaml12Dumper, sort_keys=False).encode())
    checkouts.lend_data(root, clone, setting.params.user_paths)
    targets = list(dict.fromkeys(stage for measure in study.measures for stage in TARGETS[measure]))
    title = f"{name}-{setting.key}"
    if place is not None:
        checkouts.reproduce(clone, place, *targets)
    checkouts.forget_experiment(clone, title)
    checkouts.dvc(clone, "exp", "run", "--quiet", "--name", title, *targets)
