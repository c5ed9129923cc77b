"""What the rows of params.yaml are made of: entries of the axes with their values, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from ims3core.params import sections
from ims3core.params.messages import described
from ims3core.params.schema import Section
from ims3core.shell import axes
from ims3core.shell.errors import ParameterError

READS = {True: "data/teacher", "real": "data/features/real"}  # what a selection that is judged, or compares, reads


@dataclass(frozen=True)
class Entry:
    """One entry of an axis: its module and the values of its section as the row wants them."""

    name: str
    module: ModuleType
    values: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """Name and values, JSON-able."""
        return {"entry": self.name, **self.values}


@dataclass(frozen=True)
class PoolParts:
    """A row of ``pools``: its entries, and how much of it is made."""

    row: sections.Pool
    source: Entry
    sampler: Entry
    guide: Entry | None
    adaptation: str
    per_class: int
    batch_size: int

    @property
    def per_ipc(self) -> bool:
        """Whether the pool is made for every IPC."""
        return self.row.sized_by == "eval.ipc"

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its images, but not how many there are; JSON-able."""
        guide = None if self.guide is None else self.guide.facts
        parts = {"source": self.source.facts, "sampler": self.sampler.facts, "guide": guide}
        return {**parts, "purpose": self.row.purpose, "batch_size": self.batch_size}


class Sections:
    """The sections of entries in a params.yaml, by name, and the rows' overrides of them.

    Args:
        trees: every top-level section that is not one of the fixed ones.
    """

    def __init__(self, trees: dict[str, Any]) -> None:
        self._trees = trees
        for name in trees:
            if not axes.known_anywhere(name):
                raise ParameterError(f"{name}: unknown key (found value {trees[name]!r})")

    def entry(self, axis: str, name: str, key: str, overrides: dict[str, Any] | None = None) -> Entry:
        """The checked entry ``name`` of ``axis``, named at ``key``; ``overrides`` are those that belong to it."""
        module = axes.load(axis, name, key)
        if name not in self._trees:
            wanted = ", ".join(module.Section.model_fields) or "no keys: {}"
            raise ParameterError(
                f"{name}: missing; {key} names {name!r}, which wants a section of that name ({wanted})"
            )
        section = self._checked(module.Section, self._trees[name], name)
        if overrides:
            place = f"{key.rsplit('.', 1)[0]}.set"
            section = self._checked(module.Section, section.model_dump() | overrides, place)
        return Entry(name, module, section.model_dump())

    @staticmethod
    def _checked(schema: type[Section], tree: Any, place: str) -> Section:
        try:
            return schema.model_validate(tree)
        except ValidationError as error:
            raise ParameterError("; ".join(described(e, place) for e in error.errors()[:3])) from error


def split_overrides(key: str, overrides: dict[str, Any], owners: dict[str, type[Section]]) -> dict[str, dict[str, Any]]:
    """``overrides`` of a row by the section they belong to.

    Raises:
        ParameterError: for a key that none or more than one of the row's sections has.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in owners}
    for name, value in overrides.items():
        having = [owner for owner, schema in owners.items() if name in schema.model_fields]
        if len(having) != 1:
            known = ", ".join(f"{owner}: {' '.join(s.model_fields)}" for owner, s in owners.items() if s.model_fields)
            problem = "two sections of this row have this key" if having else "no section of this row has this key"
            raise ParameterError(f"{key}.set.{name}: {problem}; known: {known or 'none'}")
        found[having[0]][name] = value
    return found


class Rows:
    """Every row of the tables, resolved when asked for.

    Args:
        fixed: the fixed sections (:class:`ims3core.params.Params`).
    """

    def __init__(self, fixed: Any, trees: dict[str, Any]) -> None:
        self._fixed = fixed
        self._sections = Sections(trees)

    def adaptation(self, name: str) -> Entry:
        """The entry of a row of ``adaptations``."""
        row = self._fixed.adaptations[name]
        return self._own("adaptations", row.loss, f"adaptations.{name}", "loss", row.set)

    def guide(self, name: str) -> Entry:
        """The entry of a row of ``guides``."""
        row = self._fixed.guides[name]
        return self._own("guides", row.by, f"guides.{name}", "by", row.set)

    def selection(self, name: str) -> Entry:
        """The selection of a row of ``methods``."""
        row = self._fixed.methods[name]
        return self._own("selections", row.selection, f"methods.{name}", "selection", row.set)

    def refinement(self, name: str) -> Entry:
        """The refinement of a row of ``refined``."""
        row = self._fixed.refined[name]
        return self._own("refinements", row.by, f"refined.{name}", "by", row.set)

    def probe(self, name: str) -> Entry:
        """The probe of a row of ``probes``."""
        row = self._fixed.probes[name]
        return self._own("probes", row.by, f"probes.{name}", "by", row.set)

    def pool(self, name: str) -> PoolParts:
        """The entries of a row of ``pools``."""
        row, key = self._fixed.pools[name], f"pools.{name}"
        source, sampler = (axes.load(f"{axis}s", getattr(row, axis), f"{key}.{axis}") for axis in ("source", "sampler"))
        owners = {"source": source.Section, "sampler": sampler.Section, "candidates": sections.Candidates}
        own = split_overrides(key, row.set, owners)
        amounts = self._sections._checked(
            sections.Candidates, self._fixed.candidates.model_dump() | own["candidates"], f"{key}.set"
        )
        return PoolParts(
            row, adaptation=row.adaptation,
            source=self._sections.entry("sources", row.source, f"{key}.source", own["source"]),
            sampler=self._sections.entry("samplers", row.sampler, f"{key}.sampler", own["sampler"]),
            guide=None if self._fixed.guides[row.guide].by == "none" else self.guide(row.guide),
            per_class=amounts.per_class, batch_size=amounts.batch_size,
        )  # fmt: skip

    def _own(self, axis: str, name: str, key: str, word: str, overrides: dict[str, Any]) -> Entry:
        module = axes.load(axis, name, f"{key}.{word}")
        split_overrides(key, overrides, {name: module.Section})
        return self._sections.entry(axis, name, f"{key}.{word}", overrides)

    def check(self) -> None:
        """Raises a ParameterError for the first row that is unknown, incomplete or contradicts another."""
        fixed = self._fixed
        for name in fixed.adaptations:
            self.adaptation(name)
        for name, row in fixed.guides.items():
            _known(f"guides.{name}.adaptation", row.adaptation, fixed.adaptations)
            self.guide(name)
        for name in fixed.pools:
            self._check_pool(name)
        for name, row in fixed.centroids.items():
            _known(f"centroids.{name}.pool", row.pool, fixed.pools)
        for name in fixed.methods:
            self._check_method(name)
        for name in fixed.refined:
            self._check_refined(name)
        for name, row in fixed.probes.items():
            _known(f"probes.{name}.adaptation", row.adaptation, fixed.adaptations)
            self.probe(name)
        known = [*fixed.methods, *fixed.refined]
        for name in fixed.eval.methods:
            _known("eval.methods", name, known)
        _known("report.tsne_method", fixed.report.tsne_method, known)

    def _check_pool(self, name: str) -> None:
        fixed, key = self._fixed, f"pools.{name}"
        row = fixed.pools[name]
        _known(f"{key}.adaptation", row.adaptation, fixed.adaptations)
        _known(f"{key}.guide", row.guide, fixed.guides)
        pool, guide = self.pool(name), fixed.guides[row.guide]
        if (row.sampler != "none") != pool.source.module.SAMPLED:
            wanted = "an entry of ims3core/samplers" if pool.source.module.SAMPLED else "'none'"
            raise ParameterError(
                f"{key}.sampler: {row.sampler!r} does not go with source {row.source!r}, which takes {wanted}"
            )
        gives = "nothing" if pool.guide is None else pool.guide.module.GIVES
        takes = ("nothing",) if row.sampler == "none" else pool.sampler.module.TAKES
        if gives not in takes:
            raise ParameterError(
                f"{key}.guide: {row.guide!r} gives {gives}, sampler {row.sampler!r} takes {' or '.join(takes)}"
            )
        if pool.guide is not None and pool.guide.module.NETWORK and guide.adaptation != row.adaptation:
            raise ParameterError(
                f"{key}.guide: {row.guide!r} was prepared with adaptation {guide.adaptation!r}, the pool has "
                f"{row.adaptation!r}; both must be the same"
            )
        for shared in ("steps", "level") if gives == "starts" else ():
            mine, theirs = pool.sampler.values[shared], pool.guide.values[shared]
            if mine != theirs:
                raise ParameterError(
                    f"{key}: {row.sampler}.{shared} is {mine}, that of guide {row.guide!r} is {theirs}; "
                    "the starts stand at the guide's noise level, both must be the same"
                )
        guided = pool.guide is not None and pool.guide.module.PER_IPC
        per_ipc = guided or getattr(pool.source.module, "PER_IPC", False)
        if per_ipc != pool.per_ipc:
            wanted = "eval.ipc" if per_ipc else "candidates.per_class"
            who = f"source {row.source!r}" if per_ipc and not guided else f"guide {row.guide!r}"
            raise ParameterError(f"{key}.sized_by: found {row.sized_by!r}, {who} wants {wanted!r}")

    def _check_method(self, name: str) -> None:
        fixed, key = self._fixed, f"methods.{name}"
        row = fixed.methods[name]
        _known(f"{key}.pool", row.pool, fixed.pools)
        _known(f"{key}.centroids", row.centroids, fixed.centroids)
        selection, pool = self.selection(name), self.pool(row.pool)
        wanted = READS.get(getattr(selection.module, "JUDGED", False) or getattr(selection.module, "COMPARES", ""), "")
        if wanted and row.reads != wanted:
            raise ParameterError(f"{key}.reads: found {row.reads!r}, selection {row.selection!r} wants {wanted!r}")
        allowed = selection.module.SOURCES
        if allowed is not None and pool.source.name not in allowed:
            raise ParameterError(
                f"{key}.selection: {row.selection!r} selects from {' or '.join(allowed)} images, but pool "
                f"{row.pool!r} holds {pool.source.name} ones"
            )
        if pool.source.module.maker is None:
            return
        for ipc in sorted(fixed.eval.ipc, reverse=True):
            need = selection.module.need(ipc, **selection.values) or ipc
            have, which = (ipc, "eval.ipc") if pool.per_ipc else (pool.per_class, "candidates.per_class")
            if need > have:
                raise ParameterError(
                    f"{which}: {have} images per class and draw are too few for {key}; "
                    f"{row.selection} wants {need} for eval.ipc {ipc}"
                )

    def _check_refined(self, name: str) -> None:
        fixed = self._fixed
        if name in fixed.methods:
            raise ParameterError(f"refined.{name}: methods has a row of this name too; names of rows must differ")
        row, refinement = fixed.refined[name], self.refinement(name)
        wanted = refinement.module.READS
        if callable(wanted):
            wanted = wanted(refinement.values)
        if row.reads != wanted:
            raise ParameterError(f"refined.{name}.reads: found {row.reads!r}, {row.by} wants {wanted!r}")
        seen = [name]
        while seen[-1] in fixed.refined:
            start = fixed.refined[seen[-1]].start
            _known(f"refined.{seen[-1]}.start", start, [*fixed.methods, *fixed.refined])
            if start in seen:
                raise ParameterError(f"refined.{name}.start: goes round in circles ({' <- '.join([*seen, start])})")
            seen.append(start)


def _known(key: str, value: str, table: Any) -> None:
    if value not in table:
        raise ParameterError(f"{key}: {value!r} is unknown; known: {', '.join(sorted(table))}")
