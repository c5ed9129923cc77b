"""Profiles: complete parameter files, one of which is the params.yaml in use."""

from __future__ import annotations

import difflib
from pathlib import Path

from ims3core import files
from ims3core.errors import ParameterError
from ims3core.params import load


def use(root: Path, name: str, *, force: bool) -> list[str]:
    """Makes ``profiles/<name>.yaml`` the params.yaml of ``root`` and says what was done.

    Raises:
        ParameterError: for an unknown profile, or if params.yaml equals no profile and ``force`` is off;
            the message lists the lines that would be lost.
    """
    known = {path.stem: path for path in sorted((root / "profiles").glob("*.yaml"))}
    if name not in known:
        raise ParameterError(f"profile: found {name!r}; known: {', '.join(known)}")
    target = root / "params.yaml"
    current = target.read_text(encoding="utf-8") if target.is_file() else ""
    texts = {profile: path.read_text(encoding="utf-8") for profile, path in known.items()}
    if current and current not in texts.values() and not force:
        nearest = max(texts, key=lambda profile: difflib.SequenceMatcher(None, current, texts[profile]).quick_ratio())
        changes = list(difflib.unified_diff(texts[nearest].splitlines(), current.splitlines(), lineterm="", n=0))
        lost = [line[1:].strip() for line in changes if line.startswith("+") and not line.startswith("+++")]
        raise ParameterError(
            f"params.yaml: differs from every profile; --force would lose, compared with {nearest}: {' | '.join(lost)}"
        )
    load(known[name])
    files.write_bytes(target, texts[name].encode())
    return [f"params.yaml is now profiles/{name}.yaml; `dvc repro` runs it"]
