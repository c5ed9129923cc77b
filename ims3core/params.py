"""The typed schema of params.yaml: every key, its type, its range, and how keys must agree.

The whole file is checked by :func:`load` before any model is loaded. Numerics never see these
objects; stages pass them individual values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from ims3core.errors import ParameterError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
EncoderName = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101))$")]
StudentName = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101)|timm:[a-z0-9_.]+)$")]


class Section(BaseModel):
    """A group of keys: unknown keys are errors, values are not converted, objects are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    source: Literal["digits"]
    validation_fraction: OpenFraction
    test_fraction: OpenFraction


class Vae(Section):
    latent_channels: Count
    widths: Annotated[list[Count], Field(min_length=1)]
    steps: Count
    batch_size: Count
    lr: Positive
    kl_weight: NonNegative


class Dit(Section):
    width: Count
    depth: Count
    heads: Count
    patch: Count

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Dit:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be heads {self.heads} times an even number")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 (two-dimensional sine positions)")
        return self


class Generator(Section):
    source: Literal["train"]
    vae: Vae
    dit: Dit
    steps: Count
    batch_size: Count
    lr: Positive
    warmup_steps: Index
    label_dropout: Fraction
    ema_decay: Fraction
    checkpoint_every: Count


class Encoder(Section):
    source: Literal["train"]
    network: EncoderName
    steps: Count
    batch_size: Count
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    cutmix: Fraction


class Latents(Section):
    flip: StrictBool


class Adaptation(Section):
    loss: Literal["none", "im", "diffusion"]


class Pool(Section):
    source: Literal["real", "generated"]
    adaptation: Name
    sampler: Literal["none", "ddpm", "ddim"]
    purpose: Name


class Method(Section):
    pool: Name
    selection: Literal["first", "random", "herding", "k_center", "s3"]
    centroids: Name
    labels: Literal["hard"]


class Finetune(Section):
    epochs: Positive
    batch_size: Count
    lr: Positive
    weight_decay: NonNegative
    label_dropout: Fraction
    gamma_fraction: Fraction
    variational: StrictBool
    grad_norm_every: Index
    checkpoint_every: Count


class Im(Section):
    form: Literal["paper", "official"]
    lambda_im: NonNegative
    similarity: Literal["cosine", "l1", "l2"]
    inversion_steps: Count
    pairing: Literal["matched", "all"]
    grad_through: Literal["inversion", "last_step", "denoiser"]
    clip_x0: StrictBool

    @model_validator(mode="after")
    def _gradient_exists(self) -> Im:
        allowed = {"paper": ("inversion", "last_step"), "official": ("denoiser",)}[self.form]
        if self.grad_through not in allowed:
            raise ValueError(
                f"grad_through {self.grad_through!r} gives form {self.form!r} no gradient; "
                f"allowed there: {', '.join(allowed)}"
            )
        return self


class Ema(Section):
    decay: Annotated[float, Field(ge=0, lt=1)]
    use_for_sampling: StrictBool


class CandidatesSection(Section):
    per_class: Count
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: Positive
    guided_channels: Annotated[int, Field(ge=0)]
    batch_size: Count


class Features(Section):
    batch_size: Count


class Centroids(Section):
    pool: Name
    real_per_class: Count


class Empty(Section):
    """A selection or adaptation without parameters."""


class S3(Section):
    alpha: NonNegative
    beta: NonNegative
    groups: Count
    normalisation: Literal["paper", "official"]
    start: Literal["nearest", "random"]
    restarts: Count
    max_sweeps: Count
    eps: NonNegative


class Augment(Section):
    crop_scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None
    flip: Fraction
    rotate: Annotated[float, Field(ge=0, le=180)]
    translate: Annotated[float, Field(ge=0, lt=1)]
    colour: Annotated[float, Field(ge=0, lt=1)]
    lighting: NonNegative


class Protocol(Section):
    epochs: Count | Literal["minimax"] | None
    steps: Count | None
    batch_size: Count
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    schedule: Literal["cosine", "step"]
    cutmix: Fraction
    evaluations: Count

    @model_validator(mode="after")
    def _one_length(self) -> Protocol:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"exactly one of epochs ({self.epochs}) and steps ({self.steps}) must be set")
        return self


class Eval(Section):
    methods: Annotated[list[Name], Field(min_length=1)]
    ipc: Annotated[list[Count], Field(min_length=1)]
    draws: Count
    seeds: Count
    students: Annotated[list[StudentName], Field(min_length=1)]
    protocol: Name
    split: Literal["test", "validation"]


class Report(Section):
    grid_images: Count
    tsne_real: Count
    tsne_method: Name


class Compute(Section):
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    compile: StrictBool
    threads: Index


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

        for name, row in self.adaptations.items():
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
        if self.data.validation_fraction + self.data.test_fraction >= 1:
            raise ValueError("data.validation_fraction + data.test_fraction: must stay below 1, nothing is left to train on")
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
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("constrained-", "literal[", "list[")))
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key (found value {error['input']!r})"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {error['input']!r}, {message[0].lower()}{message[1:]}"
