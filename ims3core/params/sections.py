"""The sections of params.yaml that do not belong to an entry of an axis: every key, its type and its range."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from ims3core.params.schema import (
    Count,
    Decay,
    Fraction,
    Index,
    Name,
    NonNegative,
    OpenFraction,
    Positive,
    Section,
)

EncoderName = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101))$")]
NETWORK = r"^(convnet|resnetap10|resnet(10|18|34|50|101)|timm:[a-z0-9_.]+)$"
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
NetworkName = Annotated[str, Field(pattern=NETWORK)]


def is_network(name: str) -> bool:
    """Whether ``name`` is that of a student network."""
    return re.match(NETWORK, name) is not None


class Data(Section):
    source: Literal["digits", "imagefolder", "torchvision", "huggingface", "npz"]
    name: str | None
    path: str | None
    revision: str | None
    config: str | None = None
    splits: dict[Literal["train", "validation", "test", "all"], str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    classes: str | None
    side: Count
    channels: Literal[1, 3]
    storage: Literal["pixels", "index"]
    skip_unreadable: StrictBool
    validation_fraction: OpenFraction
    test_fraction: OpenFraction

    @model_validator(mode="after")
    def _source_is_complete(self) -> Data:
        if self.source in ("imagefolder", "npz", "torchvision") and self.path is None:
            raise ValueError(f"path: found null, source {self.source!r} wants a folder or file")
        if self.source == "torchvision" and self.name not in TORCHVISION:
            raise ValueError(f"name: found {self.name!r}; known for source 'torchvision': {', '.join(TORCHVISION)}")
        if self.source == "huggingface" and (self.name is None) == (self.path is None):
            raise ValueError(
                "name, path: source 'huggingface' wants exactly one of a hub id and a folder of parquet files"
            )
        if self.storage == "index" and self.source != "imagefolder":
            raise ValueError(f"storage: 'index' wants source 'imagefolder', found {self.source!r}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction: must stay below 1, nothing is left to train on")
        return self


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


class TrainedGenerator(Section):
    """A small VAE and DiT, trained on the real training images."""

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


class PretrainedGenerator(Section):
    """A class-conditional DiT that exists: on the hub, in a folder, or as a checkpoint of its authors."""

    source: Literal["pretrained"]
    model: str
    revision: str | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    heads: Count | None
    vae: str | None
    time_features: Literal["auto", "original", "diffusers"]


Generator = Annotated[TrainedGenerator | PretrainedGenerator, Field(discriminator="source")]


class TrainedEncoder(Section):
    """A small network, trained on the real training images."""

    source: Literal["train"]
    network: EncoderName
    steps: Count
    batch_size: Count
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    cutmix: Fraction


class TimmEncoder(Section):
    """A pretrained timm model with its own preprocessing."""

    source: Literal["timm"]
    network: str
    weights: str | None


Encoder = Annotated[TrainedEncoder | TimmEncoder, Field(discriminator="source")]


class OwnTeacher(Section):
    """The encoder and its own head."""

    source: Literal["encoder"]


class TrainedTeacher(TrainedEncoder):
    """A network of its own, trained on the real training images."""

    norm: Literal["instance", "batch"]


class TimmTeacher(TimmEncoder):
    """A timm model whose head knows our classes, or ImageNet's."""


Teacher = Annotated[OwnTeacher | TrainedTeacher | TimmTeacher, Field(discriminator="source")]


class Latents(Section):
    flip: StrictBool
    batch_size: Count


class Row(Section):
    """A row of a table: ``set`` overrides keys of the sections it uses."""

    set: dict[str, Any] = Field(default_factory=dict)


class Adaptation(Row):
    """A fine-tuning; ``phase``: so many classes at a time, each time from the start, or null: all together."""

    loss: Name
    phase: Count | None = None


class Guide(Row):
    by: Name
    adaptation: Name


class Pool(Row):
    source: Name
    adaptation: Name
    guide: Name
    sampler: Name
    purpose: Name
    sized_by: Literal["candidates.per_class", "eval.ipc"]


class Method(Row):
    pool: Name
    selection: Name
    centroids: Name
    reads: Literal["data/real/classes.json", "data/features/real", "data/teacher"]


class Refined(Row):
    start: Name
    by: Name
    reads: Literal["data/real/train", "data/teacher", "data/generator"]


class Student(Section):
    network: NetworkName
    options: dict[str, Any] = Field(default_factory=dict)


class Finetune(Section):
    epochs: Positive
    batch_size: Count
    lr: Positive
    weight_decay: NonNegative
    label_dropout: Fraction
    gamma_fraction: Fraction
    variational: StrictBool
    accumulate: Count
    gradient_checkpointing: StrictBool
    grad_norm_every: Index
    checkpoint_every: Count

    @model_validator(mode="after")
    def _batch_divides(self) -> Finetune:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


class Ema(Section):
    decay: Decay
    use_for_sampling: StrictBool


class Candidates(Section):
    per_class: Count
    batch_size: Count


class Features(Section):
    batch_size: Count


class Centroids(Section):
    pool: Name
    real_per_class: Count


class Augment(Section):
    crop_scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None
    flip: Fraction
    rotate: Annotated[float, Field(ge=0, le=180)]
    translate: Annotated[float, Field(ge=0, lt=1)]
    colour: Annotated[float, Field(ge=0, lt=1)]
    lighting: NonNegative
    patch_shuffle: Count
    randaugment: Annotated[list[Count], Field(min_length=2, max_length=2)] | None


class BatchRule(Section):
    """A batch size by IPC, as RDED has it."""

    by_ipc: dict[Count, Count]
    full: Count
    many_classes: Count


class Protocol(Section):
    labels: Literal["hard", "teacher"]
    temperature: Positive | None
    epochs: Count | Literal["minimax"] | None
    steps: Count | None
    batch_size: Count | BatchRule
    optimiser: Literal["sgd", "adamw"]
    lr: Positive
    lr_for: dict[str, Positive]
    momentum: Decay
    weight_decay: NonNegative
    decay_matrices_only: StrictBool
    schedule: Literal["cosine", "half_cosine", "step", "constant"]
    cutmix: Fraction
    warm_statistics: StrictBool
    evaluations: Count
    norm: Literal["instance", "batch"]
    side: Count | None
    test_crop: Annotated[float, Field(gt=0, le=1)]
    augment: dict[str, Any]

    @model_validator(mode="after")
    def _one_length(self) -> Protocol:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"exactly one of epochs ({self.epochs}) and steps ({self.steps}) must be set")
        if (self.labels == "teacher") != (self.temperature is not None):
            raise ValueError(f"temperature: found {self.temperature}; labels {self.labels!r} want "
                             f"{'a number' if self.labels == 'teacher' else 'null'}")  # fmt: skip
        return self

    def plan(self, network: str) -> dict[str, Any]:
        """The values that shape the optimisation of one network (:func:`ims3core.students.protocols.plan`)."""
        values = self.model_dump(exclude={"labels", "norm", "side", "augment", "lr_for", "batch_size"})
        rule = self.batch_size if isinstance(self.batch_size, int) else self.batch_size.model_dump()
        lr = next((lr for part, lr in self.lr_for.items() if part in network), self.lr)
        return {**values, "batch_size": rule, "lr": lr}


class Eval(Section):
    methods: Annotated[list[Name], Field(min_length=1)]
    ipc: Annotated[list[Count], Field(min_length=1)]
    draws: Count
    seeds: Count
    students: Annotated[list[str], Field(min_length=1)]
    protocols: Annotated[list[Name], Field(min_length=1)]
    split: Literal["test", "validation"]


class Coverage(Section):
    k: Count
    real_images: Count


class Probe(Row):
    by: Name
    adaptation: Name


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
    measures: Annotated[list[Literal["accuracy", "gap", "coverage", "cost", "probes", "plane"]], Field(min_length=1)]
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


class Report(Section):
    grid_images: Count
    gallery_images: Count
    tsne_real: Count
    tsne_method: Name


class Compute(Section):
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    compile: StrictBool
    threads: Index
    launch: str | None
