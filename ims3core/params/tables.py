"""The rows of the tables in params.yaml, and the studies: every key, its type and its range."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ims3core.base.schema import Count, Name, Section

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
    augment: dict[str, Any] = Field(
        default_factory=dict, description="keys of the section augment with other values, for example dsa"
    )


class Diagnostic(Row):
    """What is measured of a generator."""

    type: Name = Field(description="entry of ims3core/axes/diagnostics that measures generators")
    adaptation: Name = Field(description="row of adaptations")
