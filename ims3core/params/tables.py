"""The rows of the tables in params.yaml, and the studies: every key, its type and its range."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ims3core.base.schema import Count, Index, Name, Section


TABLES = (
    "adaptations", "guides", "pools", "centroids", "methods", "refinements", "students", "protocols", "diagnostics"
)  # fmt: skip


class Row(Section):
    """A row of a table: ``set`` overrides keys of the sections it uses."""

    set: dict[str, Any] = Field(default_factory=dict, description="keys of the row's sections with other values")


class Adaptation(Row):
    """A fine-tuning of the generator."""

    type: Name = Field(description="entry of ims3core/axes/adaptations")
    phase: Count | None = Field(
        None, description="so many classes at a time, each time from the start; null: all together"
    )


class Guide(Row):
    """What a sampler knows of the real latents."""

    type: Name = Field(description="entry of ims3core/axes/guides")
    adaptation: Name = Field(description="row of adaptations whose generator prepares it")


class Pool(Row):
    """Candidate images."""

    source: Name = Field(description="entry of ims3core/axes/sources")
    adaptation: Name = Field(description="row of adaptations")
    guide: Name = Field(description="row of guides")
    sampler: Name = Field(description="entry of ims3core/axes/samplers")


class Centroids(Section):
    """Class centroids r_i (Eq. 8)."""

    pool: Name = Field(description="row of pools; a generated pool of its own for Table 13")
    real_per_class: Count = Field(description="K_i: at most so many images per class")


class Method(Row):
    """A pool, and what is kept of it."""

    pool: Name = Field(description="row of pools")
    type: Name = Field(description="entry of ims3core/axes/selections")
    centroids: Name = Field(description="row of centroids")


class Refinement(Row):
    """A row that starts from the sets of another row."""

    start: Name = Field(description="row of methods or refinements")
    type: Name = Field(description="entry of ims3core/axes/refinements")


class Diagnostic(Row):
    """What is measured of a generator."""

    type: Name = Field(description="entry of ims3core/axes/diagnostics that measures generators")
    adaptation: Name = Field(description="row of adaptations")


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
