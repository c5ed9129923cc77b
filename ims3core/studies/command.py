"""``ims3 study``: the list of studies with what they test and cost, and running one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core import params as parameters
from ims3core.base import files
from ims3core.studies import results
from ims3core.studies.settings import settings_of

if TYPE_CHECKING:
    from ims3core.params import Params


def show(root: Path, params: Params) -> None:
    """Prints one line per study: its settings, how many of them are known, planned time, and the claim it tests."""
    from rich.console import Console
    from rich.table import Table

    from ims3core.planning.table import duration
    from ims3core.studies import costs

    table = Table("study", "settings", "known", "time of all", "what it tests", title="studies of params.yaml")
    tree = _tree(root)
    for name, study in params.studies.items():
        settings = settings_of(name, tree, study)
        known = set(results.read(root, name, study.labels)["key"])
        done = sum(setting.key in known for setting in settings)
        took = duration(costs.seconds(root, params, study, settings))
        table.add_row(name, str(len(settings)), str(done), took, study.claim)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def run(root: Path, name: str, params: Params) -> Iterator[str]:
    """Runs what is missing of a study, writes its table and figure, and yields what it found."""
    from ims3core.report.figures import LIGHT, tsne
    from ims3core.report.tables import REAL
    from ims3core.studies import experiments, figures, sentences

    study = params.studies[name]
    labels = study.labels
    frame, ran = experiments.run(root, name, _tree(root), study)
    files.write_bytes(results.path_of(root, name, "png"), figures.draw(study, frame, labels, theme=LIGHT))
    if "plane" in study.measures:
        drawn = tsne(results.read_plane(root, name), real=REAL, theme=LIGHT)
        files.write_bytes(results.path_of(root, f"{name}-plane", "png"), drawn)
    yield f"{name}: {study.claim}"
    yield from (f"  {sentence}" for sentence in sentences.sentences(study, frame, labels))
    yield f"{ran} experiments ran; {results.path_of(root, name)} and .png are written"


def _tree(root: Path) -> dict[str, Any]:
    return parameters.tree_of((root / "params.yaml").read_text(encoding="utf-8"))
