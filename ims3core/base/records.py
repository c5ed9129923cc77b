"""JSON files that stages write for each other, with their keys checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ims3core.base import files
from ims3core.errors import ArtifactError


class Record(BaseModel):
    """The content of a JSON file: strict about the fields of the class, indifferent to other keys."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The checked record in ``path``.

        Raises:
            ArtifactError: naming the file that is missing or malformed, and the first offending key.
        """
        content = files.read_json(path)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            problem = first["msg"].removeprefix("Value error, ")
            raise stale(path, f"{key}: {problem}" if key else problem) from error


def stale(path: Path, problem: str) -> ArtifactError:
    """The error for a file that is damaged or was written for other parameters."""
    return ArtifactError(f"{path}: {problem}; run `dvc repro`")
