"""The typed schema of params.yaml, and how its sections must agree.

The whole file is checked by :func:`load` before any model is loaded. Numerics never see these
objects; stages pass them individual values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from ims3core.errors import ParameterError
from ims3core.params.sections import (
    S3,
    Adaptation,
    Augment,
    CandidatesSection,
    Centroids,
    Compute,
    Data,
    Ema,
    Empty,
    Encoder,
    Eval,
    Features,
    Finetune,
    Generator,
    Im,
    Index,
    Latents,
    Method,
    Name,
    Pool,
    Protocol,
    Report,
    Section,
)


class Params(Section):
    """All of params.yaml."""

    seed: Index
    data: Data
    generator: Generator
    encoder: Encoder
    latents: Latents
    adaptations: dict[Name, Adaptation]
    none: Empty
    im: Im
    finetune: Finetune
    ema: Ema
    pools: dict[Name, Pool]
    candidates: CandidatesSection
    features: Features
    centroids: dict[Name, Centroids]
    methods: dict[Name, Method]
    first: Empty
    random: Empty
    herding: Empty
    k_center: Empty
    s3: S3
    augment: Augment
    protocols: dict[Name, Protocol]
    eval: Eval
    report: Report
    compute: Compute

    @model_validator(mode="after")
    def _rows_agree(self) -> Params:
        def known(key: str, value: str, table: dict) -> None:
            if value not in table:
                raise ValueError(f"{key}: {value!r} is unknown; known: {', '.join(sorted(table))}")

        for name in self.adaptations:
            if name not in type(self).model_fields:
                raise ValueError(f"adaptations.{name}: no section of that name; known: im, none")
        for name, pool in self.pools.items():
            known(f"pools.{name}.adaptation", pool.adaptation, self.adaptations)
            if (pool.source == "real") != (pool.sampler == "none"):
                raise ValueError(
                    f"pools.{name}.sampler: {pool.sampler!r} does not go with source {pool.source!r}; "
                    "real images take 'none', generated ones 'ddpm' or 'ddim'"
                )
        for name, row in self.centroids.items():
            known(f"centroids.{name}.pool", row.pool, self.pools)
        for name, method in self.methods.items():
            known(f"methods.{name}.pool", method.pool, self.pools)
            known(f"methods.{name}.centroids", method.centroids, self.centroids)
            if self.pools[method.pool].source == "generated":
                groups = self.s3.groups if method.selection == "s3" else 1
                ipc = max(self.eval.ipc)
                if ipc * groups > self.candidates.per_class:
                    raise ValueError(
                        f"candidates.per_class: {self.candidates.per_class} images are too few for methods.{name}; "
                        f"eval.ipc {ipc} x {'s3.groups' if groups > 1 else 'one group of'} {groups} "
                        f"wants at least {ipc * groups}"
                    )
            elif method.selection in ("first", "s3"):
                raise ValueError(
                    f"methods.{name}.selection: {method.selection!r} selects among generated candidates, but pool "
                    f"{method.pool!r} holds real images; allowed there: random, herding, k_center"
                )
        for name in self.eval.methods:
            known("eval.methods", name, self.methods)
        for field in ("methods", "ipc", "students"):
            values = getattr(self.eval, field)
            if len(set(values)) != len(values):
                raise ValueError(f"eval.{field}: {values} names an entry twice")
        known("eval.protocol", self.eval.protocol, self.protocols)
        known("report.tsne_method", self.report.tsne_method, self.methods)
        return self


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text; DVC and YAML 1.2 read it as a number, and so does this loader."""


_Yaml12Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse(text: str, *, name: str = "params.yaml") -> Params:
    """The checked parameters in ``text``.

    Raises:
        ParameterError: naming the first offending key, the value found and what is allowed.
    """
    try:
        tree = yaml.load(text, _Yaml12Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParameterError(f"{name}: found {type(tree).__name__}, wanted a mapping of sections")
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ParameterError(f"{name}: " + "; ".join(_describe(e) for e in error.errors()[:3])) from error


def load(path: Path) -> Params:
    """The checked parameters of the file ``path``."""
    try:
        return parse(path.read_text(encoding="utf-8"), name=path.name)
    except FileNotFoundError as error:
        raise ParameterError(f"{path}: no such file; `ims3 use digits` writes one") from error


def _describe(error: dict[str, Any]) -> str:
    """One pydantic error as "key: found value, problem"."""
    noise = ("constrained-", "literal[", "list[")
    parts = [str(part) for part in error["loc"] if not str(part).startswith(noise)]
    if len(parts) > 1 and parts[0] in ("generator", "encoder") and parts[1] in ("train", "pretrained", "timm"):
        del parts[1]  # which of the two forms of the section it is
    key = ".".join(parts)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key (found value {error['input']!r})"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {error['input']!r}, {message[0].lower()}{message[1:]}"
