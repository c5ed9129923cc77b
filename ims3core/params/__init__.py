"""The typed schema of params.yaml, and how its sections must agree.

The whole file is checked by :func:`load` before any model is loaded. Numerics never see these objects; stages pass
them the entries and values they need.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator

from ims3core.axes.diagnostics.coverage import Coverage
from ims3core.base.schema import Index, Name, Section, described
from ims3core.errors import ParameterError
from ims3core.params import sections, tables
from ims3core.params.rows import Pool, Rows
from ims3core.students.settings import Augment, Protocol

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:  # a build of PyYAML without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

if TYPE_CHECKING:
    from ims3core.axes.adaptations import Adaptation
    from ims3core.axes.diagnostics import GeneratorDiagnostic
    from ims3core.axes.guides import Guide
    from ims3core.axes.refinements import Refinement
    from ims3core.axes.selections import Selection
    from ims3core.axes.sources import PoolSpec


class Params(Section):
    """All of params.yaml: the fixed sections, and through its rows those of the entries they name."""

    seed: Index
    data: sections.Data
    generator: sections.Generator
    encoder: sections.Encoder
    teacher: sections.Teacher
    latents: sections.Latents
    adaptations: dict[Name, tables.Adaptation]
    finetune: sections.Finetune
    ema: sections.Ema
    guides: dict[Name, tables.Guide]
    pools: dict[Name, tables.Pool]
    candidates: sections.Candidates
    features: sections.Features
    centroids: dict[Name, tables.Centroids]
    methods: dict[Name, tables.Method]
    refinements: dict[Name, tables.Refinement]
    students: dict[Name, sections.Student]
    augment: Augment
    protocols: dict[Name, Protocol]
    eval: sections.Eval
    diagnostics: dict[Name, tables.Diagnostic] = {}
    coverage: Coverage
    report: sections.Report
    compute: sections.Compute
    _rows: Rows = PrivateAttr()
    _tree: dict[str, Any] = PrivateAttr()

    @property
    def tree(self) -> dict[str, Any]:
        """The parameters as they are written."""
        return self._tree

    def adaptation(self, name: str) -> Adaptation:
        """The entry of a row of ``adaptations``."""
        entry: Adaptation = self._rows.entry("adaptations", "adaptations", name)
        return entry

    def guide(self, name: str) -> Guide:
        """The entry of a row of ``guides``."""
        entry: Guide = self._rows.entry("guides", "guides", name)
        return entry

    def pool(self, name: str) -> Pool:
        """The entries of a row of ``pools``."""
        return self._rows.pool(name)

    def pool_spec(self, name: str, *, classes: int, blocks: tuple[tuple[int, ...], ...] = ()) -> PoolSpec:
        """What a row of ``pools`` asks of its source; ``blocks`` are classes that share one network."""
        from ims3core.axes.sources import PoolSpec

        pool = self.pool(name)
        spec = PoolSpec(
            self.seed, pool.source.noise_stream, self.eval.draws, classes, pool.per_class, pool.batch_size,
            pool.sampler, pool.guide, compiled=self.compute.compile, blocks=blocks,
        )  # fmt: skip
        return replace(spec, ipcs=tuple(self.eval.ipc)) if pool.per_ipc else spec

    def selection(self, name: str) -> Selection:
        """The selection of a row of ``methods``."""
        entry: Selection = self._rows.entry("selections", "methods", name)
        return entry

    def refinement(self, name: str) -> Refinement:
        """The refinement of a row of ``refinements``."""
        entry: Refinement = self._rows.entry("refinements", "refinements", name)
        return entry

    def refining_augmentation(self, name: str) -> Augment:
        """The section ``augment`` as a row of ``refinements`` wants it."""
        return self.augment.overridden(self.refinements[name].augment, f"refinements.{name}.augment")

    def diagnostic(self, name: str) -> GeneratorDiagnostic:
        """The diagnostic of a row of ``diagnostics``."""
        entry: GeneratorDiagnostic = self._rows.entry("diagnostics", "diagnostics", name)
        return entry

    @property
    def needs_generator(self) -> bool:
        """Whether a pool, guide, refinement or diagnostic looks at a generator."""
        pools = [self.pool(name) for name in self.pools]
        return (
            any(pool.source.sampled or pool.guide.provides != "nothing" for pool in pools)
            or any("generator" in self.refinement(name).needs() for name in self.refinements)
            or bool(self.diagnostics)
        )

    def lineage(self, row: str) -> tuple[str, list[str]]:
        """The row of ``methods`` that ``row`` goes back to, and the rows of ``refinements`` from there to ``row``."""
        refined: list[str] = []
        while row in self.refinements:
            refined.insert(0, row)
            row = self.refinements[row].start
        return row, refined

    def network(self, student: str) -> str:
        """The network behind an entry of ``eval.students``: a row of ``students``, or a network by its own name."""
        return self.students[student].network if student in self.students else student

    def network_options(self, student: str) -> dict[str, Any]:
        """Further arguments of that network."""
        return self.students[student].options if student in self.students else {}

    def augmentation(self, protocol: str) -> Augment:
        """The section ``augment`` as the row ``protocol`` wants it."""
        return self.augment.overridden(self.protocols[protocol].augment, f"protocols.{protocol}.augment")

    @property
    def user_paths(self) -> list[str | None]:
        """What may be a file or folder of the user's: images, class list, models, weights, captions."""
        paths = [self.data.path, self.data.classes, self.data.table]
        if isinstance(self.generator, sections.PretrainedGenerator):
            paths.append(self.generator.model)
        paths += [one.weights for one in (self.encoder, self.teacher) if isinstance(one, sections.TimmEncoder)]
        for name in self.pools:
            paths += self.pool(name).source.user_paths()
        return paths

    @model_validator(mode="after")
    def _grid_is_known(self) -> Params:
        for field in ("methods", "ipc", "students", "protocols"):
            values = getattr(self.eval, field)
            if len(set(values)) != len(values):
                raise ValueError(f"eval.{field}: {values} names an entry twice")
        for name in self.eval.protocols:
            if name not in self.protocols:
                raise ValueError(f"eval.protocols: {name!r} is unknown; known: {', '.join(sorted(self.protocols))}")
        for name in self.eval.students:
            if name not in self.students and not sections.is_network(name):
                known = ", ".join([*sorted(self.students), "convnet", "resnetap10", "resnet10..101", "timm:<name>"])
                raise ValueError(f"eval.students: {name!r} is unknown; known: {known}")
        for name in self.protocols:
            try:
                self.augmentation(name)
            except ParameterError as error:
                raise ValueError(str(error)) from error
        return self


class Yaml12Loader(SafeLoader):
    """PyYAML reads 1e-3 as text, and the last of two equal keys; YAML 1.2 and DVC a number, and a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; raises a ConstructorError where a key stands twice."""
        seen: dict[Any, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key}: stands twice, in line {seen[key]} and {key_node.start_mark.line + 1}"
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


Yaml12Loader.yaml_implicit_resolvers = {k: list(v) for k, v in SafeLoader.yaml_implicit_resolvers.items()}


class Yaml12Dumper(yaml.SafeDumper):
    """Quotes the text 1e3, which PyYAML leaves bare and Yaml12Loader would read as a number."""


Yaml12Dumper.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _side in (Yaml12Loader, Yaml12Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def flow(value: Any) -> str:
    """A value on one line, as :func:`tree_of` reads it back."""
    # In a list, so that text is quoted where flow style needs it.
    text = yaml.dump(
        [value], Dumper=Yaml12Dumper, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    return str(text).strip()[1:-1]


def parse(text: str, *, name: str = "params.yaml") -> Params:
    """The checked parameters in ``text``.

    Raises:
        ParameterError: naming the first offending key, the value found and what is allowed.
    """
    return checked(tree_of(text, name=name), name=name)


def tree_of(text: str, *, name: str = "params.yaml") -> dict[str, Any]:
    """The sections in ``text`` as they are written."""
    try:
        tree = yaml.load(text, Yaml12Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParameterError(f"{name}: found {type(tree).__name__}, wanted a mapping of sections")
    return tree


def checked(tree: dict[str, Any], *, name: str = "params.yaml") -> Params:
    """The parameters in ``tree``, as :func:`parse` checks them."""
    fixed = {key: value for key, value in tree.items() if key in Params.model_fields}
    try:
        params = Params.model_validate(fixed)
        params._tree = tree
        params._rows = Rows(params, {str(key): value for key, value in tree.items() if key not in fixed})
        params._rows.check()
    except ValidationError as error:
        raise ParameterError(f"{name}: " + "; ".join(described(e) for e in error.errors()[:3])) from error
    except ParameterError as error:
        raise ParameterError(f"{name}: {error}") from error
    return params


def load(path: Path) -> Params:
    """The checked parameters of the file ``path``."""
    try:
        return parse(path.read_text(encoding="utf-8"), name=path.name)
    except FileNotFoundError as error:
        raise ParameterError(f"{path}: no such file; `ims3 use digits` writes one") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error
