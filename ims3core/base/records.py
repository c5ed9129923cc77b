"""What JSON files hold that stages write for each other: every key is declared, and checked when a file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ims3core.base.schema import Index, described
from ims3core.errors import ArtifactError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
REMEDY = "run `dvc repro`"
EXACT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Record(BaseModel):
    """An object of a JSON file: no key is unknown, none is missing, no value is converted."""

    model_config = EXACT


class ListedFile(Record):
    """A file of an artifact, as its manifest describes it."""

    size: Index
    sha256: Sha256


def stale(path: Path, problem: str) -> ArtifactError:
    """The error for a file that is damaged or was written for other parameters."""
    return ArtifactError(f"{path}: {problem}; {REMEDY}")


def malformed(path: Path, error: ValidationError, place: str = "") -> ArtifactError:
    """The error for a file whose content, at ``place``, is not that of its schema: its first offending key."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return stale(path, f"not valid JSON ({first['ctx']['error']})")
    return stale(path, described(first, place))
