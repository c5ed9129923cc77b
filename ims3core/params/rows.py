"""The rows of params.yaml: entries of the axes with the values of their sections, checked against each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ims3core.base.schema import Entry, Section
from ims3core.errors import ParameterError
from ims3core.params import entries, sections, tables

if TYPE_CHECKING:
    from ims3core.axes.guides import Guide
    from ims3core.axes.samplers import Sampler
    from ims3core.axes.sources import Source
    from ims3core.params import Params

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Pool:
    """A row of ``pools``: its entries, and how much of it is made."""

    row: tables.Pool
    source: Source
    sampler: Sampler
    guide: Guide
    per_class: int
    batch_size: int

    @property
    def per_ipc(self) -> bool:
        """Whether the pool is made anew for every IPC."""
        return self.source.per_ipc or self.guide.per_ipc


class EntrySections:
    """The sections of entries in a params.yaml, by name, and the rows' overrides of them.

    Args:
        trees: every top-level section that is not one of the fixed ones.
    """

    def __init__(self, trees: dict[str, Any]) -> None:
        self._trees = trees
        for name in trees:
            if not entries.is_entry(name):
                raise ParameterError(f"{name}: unknown key (found value {trees[name]!r})")

    def entry(self, kind: type[Entry], key: str, overrides: dict[str, Any] | None = None) -> Any:
        """The checked entry of class ``kind``, named at ``key``; ``overrides`` are those that belong to it."""
        name = kind.entry_name()
        if name not in self._trees:
            fields = ", ".join(kind.model_fields) or "no keys: {}"
            raise ParameterError(
                f"{name}: missing; {key} names {name!r}, which wants a section of that name ({fields})"
            )
        return kind.checked(self._trees[name], name).overridden(overrides or {}, f"{key.rsplit('.', 1)[0]}.set")


def split_overrides(key: str, overrides: dict[str, Any], owners: dict[str, type[Section]]) -> dict[str, dict[str, Any]]:
    """``overrides`` of a row by the section they belong to.

    Raises:
        ParameterError: for a key that none or more than one of the row's sections has.
    """
    split: dict[str, dict[str, Any]] = {name: {} for name in owners}
    for name, value in overrides.items():
        having = [owner for owner, schema in owners.items() if name in schema.model_fields]
        if len(having) != 1:
            known = ", ".join(f"{owner}: {' '.join(s.model_fields)}" for owner, s in owners.items() if s.model_fields)
            problem = "two sections of this row have this key" if having else "no section of this row has this key"
            raise ParameterError(f"{key}.set.{name}: {problem}; known: {known or 'none'}")
        split[having[0]][name] = value
    return split


class Rows:
    """Every row of the tables, resolved when asked for.

    Args:
        fixed: the fixed sections.
        trees: the sections of entries, as they are written.
    """

    def __init__(self, fixed: Params, trees: dict[str, Any]) -> None:
        self._fixed, self._sections = fixed, EntrySections(trees)

    def entry(self, axis: str, table: str, name: str) -> Any:
        """The entry that the row ``name`` of ``table`` is of, with the row's own values."""
        row, key = getattr(self._fixed, table)[name], f"{table}.{name}"
        kind = entries.entry_class(axis, row.type, f"{key}.type")
        split_overrides(key, row.set, {row.type: kind})
        return self._sections.entry(kind, f"{key}.type", row.set)

    def pool(self, name: str) -> Pool:
        """The entries of a row of ``pools``."""
        fixed, row, key = self._fixed, self._fixed.pools[name], f"pools.{name}"
        source = entries.entry_class("sources", row.source, f"{key}.source")
        sampler = entries.entry_class("samplers", row.sampler, f"{key}.sampler")
        owners: dict[str, type[Section]] = {"source": source, "sampler": sampler, "candidates": sections.Candidates}
        own = split_overrides(key, row.set, owners)
        amounts = fixed.candidates.overridden(own["candidates"], f"{key}.set")
        return Pool(
            row, source=self._sections.entry(source, f"{key}.source", own["source"]),
            sampler=self._sections.entry(sampler, f"{key}.sampler", own["sampler"]),
            guide=self.entry("guides", "guides", row.guide), per_class=amounts.per_class, batch_size=amounts.batch_size,
        )  # fmt: skip

    def check(self) -> None:
        """Raises a ParameterError for the first row that is unknown, incomplete or contradicts another."""
        fixed = self._fixed
        for name in fixed.adaptations:
            self.entry("adaptations", "adaptations", name)
        for name, guide in fixed.guides.items():
            _require(f"guides.{name}.adaptation", guide.adaptation, fixed.adaptations)
            self.entry("guides", "guides", name)
        for name in fixed.pools:
            self._check_pool(name)
        for name, centroids in fixed.centroids.items():
            _require(f"centroids.{name}.pool", centroids.pool, fixed.pools)
        for name in fixed.methods:
            self._check_method(name)
        for name in fixed.refinements:
            self._check_refinement(name)
        for name in fixed.diagnostics:
            self._check_diagnostic(name)
        if fixed.generator.source == "none" and fixed.needs_generator:
            raise ParameterError(
                "generator.source: found 'none', but there are rows that draw from a generator or look at it; "
                "`ims3 use NAME eval.methods=[...]` keeps the rows that are asked for"
            )
        known = [*fixed.methods, *fixed.refinements]
        for name in fixed.eval.methods:
            _require("eval.methods", name, known)
        featured = fixed.report.tsne_method
        if featured not in fixed.eval.methods:
            raise ParameterError(
                f"report.tsne_method: found {featured!r}, wanted one of eval.methods {fixed.eval.methods}"
            )

    def _check_pool(self, name: str) -> None:
        fixed, key = self._fixed, f"pools.{name}"
        row = fixed.pools[name]
        _require(f"{key}.adaptation", row.adaptation, fixed.adaptations)
        _require(f"{key}.guide", row.guide, fixed.guides)
        pool, guide_row = self.pool(name), fixed.guides[row.guide]
        guide = pool.guide
        if (row.sampler != "none") != pool.source.sampled:
            allowed = "an entry of ims3core/axes/samplers" if pool.source.sampled else "'none'"
            raise ParameterError(
                f"{key}.sampler: {row.sampler!r} does not go with source {row.source!r}, which takes {allowed}"
            )
        if guide.provides not in pool.sampler.accepts:
            raise ParameterError(
                f"{key}.guide: {row.guide!r} gives {guide.provides}, sampler {row.sampler!r} takes "
                f"{' or '.join(pool.sampler.accepts)}"
            )
        if guide.needs_network and guide_row.adaptation != row.adaptation:
            raise ParameterError(
                f"{key}.guide: {row.guide!r} was prepared with adaptation {guide_row.adaptation!r}, the pool has "
                f"{row.adaptation!r}; both must be the same"
            )
        for shared in ("steps", "level") if guide.provides == "starts" else ():
            ours, theirs = pool.sampler.facts[shared], guide.facts[shared]
            if ours != theirs:
                raise ParameterError(
                    f"{key}: {row.sampler}.{shared} is {ours}, that of guide {row.guide!r} is {theirs}; "
                    "the starts stand at the guide's noise level, both must be the same"
                )

    def _check_method(self, name: str) -> None:
        fixed, key = self._fixed, f"methods.{name}"
        row = fixed.methods[name]
        _require(f"{key}.pool", row.pool, fixed.pools)
        _require(f"{key}.centroids", row.centroids, fixed.centroids)
        selection, pool = self.entry("selections", "methods", name), self.pool(row.pool)
        if selection.sources is not None and pool.row.source not in selection.sources:
            raise ParameterError(
                f"{key}.type: {row.type!r} selects from {' or '.join(selection.sources)} images, but pool "
                f"{row.pool!r} holds {pool.row.source} ones"
            )
        if pool.source.indexed:
            return
        for ipc in sorted(fixed.eval.ipc, reverse=True):
            need = selection.candidates_needed(ipc) or ipc
            own = f"pools.{row.pool}.set.per_class" if "per_class" in pool.row.set else "candidates.per_class"
            have, which = (ipc, "eval.ipc") if pool.per_ipc else (pool.per_class, own)
            if need > have:
                raise ParameterError(
                    f"{which}: {have} images per class and draw are too few for {key}; "
                    f"{row.type} wants {need} for eval.ipc {ipc}"
                )

    def _check_refinement(self, name: str) -> None:
        fixed = self._fixed
        if name in fixed.methods:
            raise ParameterError(f"refinements.{name}: methods has a row of this name too; names of rows must differ")
        factor = self.entry("refinements", "refinements", name).factor
        if fixed.data.side < (least := 4 * factor):
            raise ParameterError(
                f"refinements.{name}: factor: found {factor} for images of {fixed.data.side} px, wanted at least 4 px "
                f"for each tile, so data.side of {least}"
            )
        if fixed.refinements[name].start in fixed.refinements:
            before = self.entry("refinements", "refinements", fixed.refinements[name].start).factor
            if before not in (1, factor):
                raise ParameterError(
                    f"refinements.{name}: factor: found {factor}, wanted {before}, that of the row it starts from"
                )
        fixed.refining_augmentation(name)
        passed = [name]
        while passed[-1] in fixed.refinements:
            start = fixed.refinements[passed[-1]].start
            _require(f"refinements.{passed[-1]}.start", start, [*fixed.methods, *fixed.refinements])
            if start in passed:
                raise ParameterError(
                    f"refinements.{name}.start: goes round in circles ({' <- '.join([*passed, start])})"
                )
            passed.append(start)

    def _check_diagnostic(self, name: str) -> None:
        from ims3core.axes.diagnostics import GeneratorDiagnostic

        row, key = self._fixed.diagnostics[name], f"diagnostics.{name}"
        _require(f"{key}.adaptation", row.adaptation, self._fixed.adaptations)
        if not issubclass(entries.entry_class("diagnostics", row.type, f"{key}.type"), GeneratorDiagnostic):
            raise ParameterError(f"{key}.type: {row.type!r} measures no generator; it has a stage of its own")
        self.entry("diagnostics", "diagnostics", name)


def _require(key: str, value: str, table: Iterable[str]) -> None:
    if value not in table:
        raise ParameterError(f"{key}: {value!r} is unknown; known: {', '.join(sorted(table))}")
