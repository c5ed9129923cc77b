"""Profiles: complete parameter files, one of which is the params.yaml in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ims3core.base import files
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
    trees = {profile: _values(path.read_text(encoding="utf-8")) for profile, path in known.items()}
    current = _values(target.read_text(encoding="utf-8")) if target.is_file() else None
    if current is not None and current not in trees.values() and not force:
        changes = {profile: _changes(current, tree) for profile, tree in trees.items()}
        nearest = min(changes, key=lambda profile: len(changes[profile]))
        raise ParameterError(
            f"params.yaml: differs from every profile; --force would lose, compared with {nearest}: "
            f"{' | '.join(changes[nearest])}"
        )
    load(known[name])
    files.write_bytes(target, known[name].read_bytes())
    return [f"params.yaml is now profiles/{name}.yaml; `dvc repro` runs it"]


def _values(text: str) -> dict[str, Any]:
    """Every value by its dotted key; comments and layout, which DVC rewrites, do not count."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            flat[prefix] = node

    try:
        visit("", yaml.safe_load(text))
    except yaml.YAMLError:
        return {"": text}  # not a profile, whatever it is
    return flat


def _changes(current: dict[str, Any], profile: dict[str, Any]) -> list[str]:
    """What ``current`` says and ``profile`` does not."""
    return [f"{key}: {value}" for key, value in current.items() if key not in profile or profile[key] != value] or [
        f"{key} (removed)" for key in profile if key not in current
    ]
