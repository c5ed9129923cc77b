"""The typed schema of params.yaml, and how its sections must agree.

The whole file is checked by :func:`load` before any model is loaded. Numerics never see these
objects; stages pass them individual values.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator

from ims3core.params import legacy, sections
from ims3core.params.messages import described
from ims3core.params.rows import Entry, PoolParts, Rows
from ims3core.params.schema import Index, Name, Section
from ims3core.shell.errors import ParameterError

log = logging.getLogger(__name__)


class Params(Section):
    """All of params.yaml: the fixed sections, and through its rows those of the entries they name."""

    seed: Index
    data: sections.Data
    generator: sections.Generator
    encoder: sections.Encoder
    teacher: sections.Teacher
    latents: sections.Latents
    adaptations: dict[Name, sections.Adaptation]
    finetune: sections.Finetune
    ema: sections.Ema
    guides: dict[Name, sections.Guide]
    pools: dict[Name, sections.Pool]
    candidates: sections.Candidates
    features: sections.Features
    centroids: dict[Name, sections.Centroids]
    methods: dict[Name, sections.Method]
    refined: dict[Name, sections.Refined]
    students: dict[Name, sections.Student]
    augment: sections.Augment
    protocols: dict[Name, sections.Protocol]
    eval: sections.Eval
    probes: dict[Name, sections.Probe] = {}
    coverage: sections.Coverage
    studies: dict[Name, sections.Study] = {}
    report: sections.Report
    compute: sections.Compute
    _rows: Rows = PrivateAttr()

    def adaptation(self, name: str) -> Entry:
        """The entry of a row of ``adaptations``, with its values."""
        return self._rows.adaptation(name)

    def guide(self, name: str) -> Entry:
        """The entry of a row of ``guides``, with its values."""
        return self._rows.guide(name)

    def pool(self, name: str) -> PoolParts:
        """The entries of a row of ``pools``, with their values."""
        return self._rows.pool(name)

    def selection(self, name: str) -> Entry:
        """The selection of a row of ``methods``, with its values."""
        return self._rows.selection(name)

    def refinement(self, name: str) -> Entry:
        """The refinement of a row of ``refined``, with its values."""
        return self._rows.refinement(name)

    def lineage(self, row: str) -> tuple[str, list[str]]:
        """The row of ``methods`` that ``row`` goes back to, and the rows of ``refined`` from there to ``row``."""
        refined: list[str] = []
        while row in self.refined:
            refined.insert(0, row)
            row = self.refined[row].start
        return row, refined

    def probe(self, name: str) -> Entry:
        """The probe of a row of ``probes``, with its values."""
        return self._rows.probe(name)

    def network(self, student: str) -> str:
        """The network behind an entry of ``eval.students``: a row of ``students``, or a network by its own name."""
        return self.students[student].network if student in self.students else student

    def network_options(self, student: str) -> dict[str, Any]:
        """Further arguments of that network."""
        return self.students[student].options if student in self.students else {}

    def augmentation(self, protocol: str) -> dict[str, Any]:
        """The values of ``augment`` as the row ``protocol`` wants them."""
        return self.augment.model_dump() | self.protocols[protocol].augment

    @property
    def user_paths(self) -> list[str | None]:
        """What may be a file or folder of the user's: images, class list, models, weights, captions."""
        found = [self.data.path, self.data.classes]
        found += [getattr(self.generator, "model", None), getattr(self.encoder, "weights", None)]
        found += [getattr(self.teacher, "weights", None)]
        for name in self.pools:
            values = self.pool(name).source.values
            found += [values.get(key) for key in ("model", "captions")]
        return found

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
        for name, protocol in self.protocols.items():
            try:
                sections.Augment.model_validate(self.augment.model_dump() | protocol.augment)
            except ValidationError as error:
                raise ValueError(described(error.errors()[0], f"protocols.{name}.augment")) from error
        return self


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text; DVC and YAML 1.2 read it as a number, and so does this loader."""


Yaml12Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse(text: str, *, name: str = "params.yaml") -> Params:
    """The checked parameters in ``text``.

    Raises:
        ParameterError: naming the first offending key, the value found and what is allowed.
    """
    return checked(tree_of(text, name=name), name=name)


def tree_of(text: str, *, name: str = "params.yaml") -> dict[str, Any]:
    """The sections in ``text`` as they are written, keys of an earlier version brought up to date."""
    try:
        tree = yaml.load(text, Yaml12Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParameterError(f"{name}: found {type(tree).__name__}, wanted a mapping of sections")
    if moved := legacy.updated(tree):
        log.warning("%s: keys of an earlier version were understood: %s", name, "; ".join(moved))
    return tree


def checked(tree: dict[str, Any], *, name: str = "params.yaml") -> Params:
    """The parameters in ``tree``, as :func:`parse` checks them."""
    fixed = {key: value for key, value in tree.items() if key in Params.model_fields}
    try:
        params = Params.model_validate(fixed)
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
