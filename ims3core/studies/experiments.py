"""Runs the settings of a study as DVC experiments: in a clone of the last commit that shares DVC's cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml

from ims3core.base import files
from ims3core.shell import beside, progress, scratch
from ims3core.shell.errors import ParameterError
from ims3core.studies import results
from ims3core.studies.settings import settings_of

if TYPE_CHECKING:
    from typing import Any

    from ims3core.params.sections import Study
    from ims3core.studies.settings import Setting

log = logging.getLogger(__name__)
TARGETS = {  # the stages that a measure needs
    "accuracy": ["students"], "gap": ["students", "full_data"], "coverage": ["coverage"], "cost": ["select"],
    "probes": ["probe"], "plane": ["coverage"],
}  # fmt: skip
CODE = ("ims3core", "stages", "dvc.yaml")


def run(root: Path, name: str, tree: dict[str, Any], study: Study) -> tuple[pd.DataFrame, int]:
    """The table of a study with every setting in it, and how many experiments ran.

    Settings that the table knows are not run; it is written after each that was. params.yaml, dvc.lock and the results
    of ``root`` stay as they are.

    Args:
        tree: params.yaml as it stands; uncommitted changes of it count.

    Raises:
        ParameterError: a setting that params.yaml does not allow, uncommitted changes of code, a stage that failed.
    """
    settings = settings_of(name, tree, study)
    known = results.read(root, name, study.labels)
    known = known[known["key"].isin([setting.key for setting in settings])]
    if "plane" in study.measures and not results.has_plane(root, name, [one.key for one in settings]):
        known = known[:0]
    missing = [setting for setting in settings if setting.key not in set(known["key"])]
    if missing:
        if changed := beside.uncommitted(root, CODE):
            others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ParameterError(
                f"{changed[0]}{others}: not in the last commit, on which DVC would run the experiments; commit first, "
                "or put the changes aside with `git stash`"
            )
        with scratch.alone(root / beside.HOME / "studies.lock", "studies", log.warning):
            clone = beside.prepare_clone(root, "studies")
            done = len(settings) - len(missing)
            for setting in progress.track(missing, label=f"study {name}", total=len(settings), done=done):
                said = [f"{k} {v}" for k, v in setting.labels.items()]
                said += [f"root seed {setting.params.seed}"] if study.root_seeds else []
                log.info("study %s: %s", name, ", ".join(said) or "one setting")
                _experiment(root, clone, name, study, setting)
                found = results.collect(clone, study, setting)
                if "plane" in study.measures:
                    results.write_plane(root, name, clone, setting)
                known = pd.concat([known, found]) if len(known) else found
                results.write(root, name, known)
    order = {setting.key: place for place, setting in enumerate(settings)}
    known = known.sort_values("key", key=lambda keys: keys.map(order), kind="stable").reset_index(drop=True)
    results.write(root, name, known)
    return known, len(missing)


def _experiment(root: Path, clone: Path, name: str, study: Study, setting: Setting) -> None:
    """``dvc exp run`` of one setting, as far as what is measured needs."""
    files.write_bytes(clone / "params.yaml", yaml.safe_dump(setting.tree, sort_keys=False).encode())
    beside.lend_data(root, clone, setting.params.user_paths)
    targets = list(dict.fromkeys(stage for measure in study.measures for stage in TARGETS[measure]))
    title = f"{name}-{setting.key}"
    beside.forget_experiment(clone, title)
    beside.dvc(clone, "exp", "run", "--quiet", "--name", title, *targets)
