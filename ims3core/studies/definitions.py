"""The studies of studies.yaml: every key, its type and its range."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ims3core.base.schema import Count, Index, Name, Section
from ims3core.errors import ParameterError
from ims3core.params import tree_of
from ims3core.pipeline.checkouts import NAME

FILE = "studies.yaml"


class Study(Section):
    """What varies (``vary``: every combination of values; or named ``settings``), for which rows, what is measured.

    With ``root_seeds`` everything is done for each of them, splits and generator too, and gives ``draws`` more sets.
    """

    claim: str
    rows: Annotated[list[Name], Field(min_length=1)]
    ipc: Annotated[list[Count], Field(min_length=1)]
    draws: Count
    seeds: Count
    split: Literal["test", "validation"]
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    fixed: dict[str, Any] = Field(default_factory=dict)
    measures: Annotated[
        list[Literal["accuracy", "gap", "coverage", "cost", "diagnostics", "plane"]], Field(min_length=1)
    ]
    show: list[str] = Field(default_factory=list)
    root_seeds: Annotated[list[Index], Field(min_length=1)] | None = None

    @property
    def labels(self) -> list[str]:
        """The names of what tells its settings apart; none where there is a single one."""
        return list(self.vary) or (["setting"] if self.settings else [])

    @model_validator(mode="after")
    def _one_way_of_varying(self) -> Study:
        if self.vary and self.settings:
            raise ValueError("vary, settings: found both, wanted one of them or none")
        if "plane" in self.measures and self.labels:
            raise ValueError("measures: found plane, which is drawn of a study without vary and settings alone")
        if "gap" in self.measures and "dit" not in self.rows:
            raise ValueError("rows: found no dit, where the gap to full data begins; measures has gap")
        return self


def read(root: Path) -> dict[str, Study]:
    """The checked studies of ``root``, by name, in the order of the file; none where there is no such file.

    Raises:
        ParameterError: naming the study and key that is refused.
    """
    path = root / FILE
    if not path.is_file():
        return {}
    tree = tree_of(path.read_text(encoding="utf-8"), name=FILE) if path.read_text(encoding="utf-8").strip() else {}
    for name in map(str, tree):
        if not NAME.fullmatch(name):  # its table and figure are files of that name
            raise ParameterError(f"{FILE}: found the name {name[:80]!r}, wanted one of letters, digits, '-' and '_'")
    return {str(name): Study.checked(study, f"{FILE}: {name}") for name, study in tree.items()}
