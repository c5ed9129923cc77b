"""The sections of params.yaml: every key, its type and its range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
EncoderName = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101))$")]
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
StudentName = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101)|timm:[a-z0-9_.]+)$")]


class Section(BaseModel):
    """A group of keys: unknown keys are errors, values are not converted, objects are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    source: Literal["digits", "imagefolder", "torchvision", "huggingface", "npz"]
    name: str | None
    path: str | None
    revision: str | None
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


class Latents(Section):
    flip: StrictBool
    batch_size: Count


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
    accumulate: Count
    gradient_checkpointing: StrictBool
    grad_norm_every: Index
    checkpoint_every: Count

    @model_validator(mode="after")
    def _batch_divides(self) -> Finetune:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


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
    side: Count | None
    protocol: Name
    split: Literal["test", "validation"]


class Report(Section):
    grid_images: Count
    tsne_real: Count
    tsne_method: Name


class Compute(Section):
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    compile: StrictBool
    threads: Index
    launch: str | None
