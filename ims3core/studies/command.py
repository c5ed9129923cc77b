"""``ims3 study``: the list of studies with what they test and cost, and running one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import files
from ims3core.studies import definitions, results
from ims3core.studies.settings import settings_of

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.pipeline.places import Place


def show(root: Path, params: Params) -> None:
    """Prints one line per study: its settings, how many of them were run, planned time, and the claim it tests."""
    from rich.console import Console
    from rich.table import Table

    from ims3core.planning.table import duration
    from ims3core.studies import costs

    table = Table("study", "settings", "known", "time of all", "what it tests", title="studies of params.yaml")
    for name, study in definitions.read(root).items():
        settings = settings_of(name, params.tree, study)
        keys = set(results.read(root, name, study.labels)["key"])
        done = sum(setting.key in keys for setting in settings)
        time = duration(costs.seconds(root, params, study, settings))
        table.add_row(name, str(len(settings)), str(done), time, study.claim)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def run(root: Path, name: str, params: Params, place: Place | None = None) -> Iterator[str]:
    """Runs what is missing of a study, writes its table and figure, and yields its result in sentences."""
    from ims3core.report.figures import tsne
    from ims3core.studies import experiments, figures, sentences

    study = definitions.read(root)[name]
    frame, ran = experiments.run(root, name, params.tree, study, place)
    files.write_bytes(results.path_of(root, name, "png"), figures.draw(study, frame))
    if "plane" in study.measures:
        plane = results.read_plane(root, name)
        files.write_bytes(results.path_of(root, f"{name}-plane", "png"), tsne(plane))
    yield f"{name}: {study.claim}"
    yield from (f"  {sentence}" for sentence in sentences.sentences(study, frame))
    yield f"{ran} experiments ran; {results.path_of(root, name)} and .png are written"
