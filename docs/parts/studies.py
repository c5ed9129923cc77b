"""One section per study: the claim, the figure, the sentences made from its numbers, how to read them, the command."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from ims3core.params import tree_of
from ims3core.studies import definitions, results, sentences
from ims3core.studies.definitions import Study
from parts.common import ROOT, folded

HOME = "digits"  # the data set they were run on


def studies() -> str:
    """All studies, in the order of studies.yaml."""
    readings = yaml.safe_load((ROOT / "docs/studies.yaml").read_text(encoding="utf-8"))
    written = tree_of((ROOT / definitions.FILE).read_text(encoding="utf-8"))
    parts = [
        part
        for name, study in definitions.read(ROOT).items()
        for part in _section(name, study, written[name], readings[name])
    ]
    return "\n\n".join(parts)


def _section(name: str, study: Study, written: dict, reading: str) -> Iterator[str]:
    yield f"### {name}"
    yield f"**Claim.** {study.claim}"
    yield f"**Reading.** {reading.strip()}"
    frame = results.read(ROOT, name, study.labels)
    frame = frame[frame["data"] == HOME]
    if len(frame):
        yield f"![Figure of the study {name}](../metrics/studies/{name}.png)"
        if "plane" in study.measures:
            yield f"![t-SNE plane of the study {name}](../metrics/studies/{name}-plane.png)"
        lines = "\n".join(f"* {sentence}" for sentence in sentences.sentences(study, frame))
        yield folded("What the numbers say, 95 % intervals over drawn sets", lines)
    text = yaml.safe_dump({name: written}, sort_keys=False, width=100, default_flow_style=None)
    yield folded("How it is set up", f"```yaml\n{text.strip()}\n```")
    yield f"```bash\nims3 study {name}\n```"
