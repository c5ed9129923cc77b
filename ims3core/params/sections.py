"""The fixed sections of params.yaml: every key, its type, its range and what it is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from ims3core.base.schema import Count, Decay, Fraction, Index, Name, NonNegative, OpenFraction, Positive, Section
from ims3core.students.settings import OwnNetwork, own_options

NETWORK = r"^(convnet|resnetap10|resnet(10|18|34|50|101)|timm:[a-z0-9_.]{1,80})$"
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
NetworkName = Annotated[str, Field(pattern=NETWORK)]


def is_network(name: str) -> bool:
    """Whether ``name`` is that of a student network."""
    return re.fullmatch(NETWORK, name) is not None


class Data(Section):
    """The real images."""

    source: Literal["digits", "imagefolder", "torchvision", "huggingface", "npz"] = Field(
        description="digits | imagefolder | torchvision | huggingface | npz"
    )
    name: str | None = Field(description="torchvision: MNIST, FashionMNIST, CIFAR10, ... | huggingface: hub id")
    path: str | None = Field(description="folder or file of the other sources")
    revision: str | None = Field(description="commit of a hub data set")
    config: str | None = Field(None, description="configuration of a hub data set that has several")
    splits: dict[Literal["train", "validation", "test", "all"], str] | None = Field(
        None, description="which split is which, {train: train, test: val}; null: by their names"
    )
    table: str | None = Field(None, description="table with the labels of picture files; null: found beside them")
    image_column: str | None = Field(
        None, description="of a hub or parquet data set with several columns of images; of a table, the file names"
    )
    label_column: str | None = Field(None, description="likewise, of labels")
    classes: str | None = Field(
        description="imagewoof | imagenette | imageidc | imagenet100 | imagenet1k | cifar10 | a .csv; null: all"
    )
    side: Count = Field(description="pixels; images are resized to the short side and cropped in the centre")
    channels: Literal[1, 3] = Field(description="1: grey | 3: RGB")
    storage: Literal["pixels", "index"] = Field(
        description="pixels: decoded once into data/real | index: files stay where they are"
    )
    skip_unreadable: StrictBool = Field(description="leave broken files out, counted in the manifest, not fail")
    validation_fraction: OpenFraction = Field(
        description="share of all images, or of the training images if the source has a test split"
    )
    test_fraction: OpenFraction = Field(description="share of all images if the source has no test split")

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
        if self.table is not None and (self.source not in ("imagefolder", "huggingface") or self.path is None):
            raise ValueError(f"table: wants source 'imagefolder' and a folder in path, found {self.source!r}")
        if self.storage == "index" and self.source != "imagefolder":
            raise ValueError(f"storage: 'index' wants source 'imagefolder', found {self.source!r}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction: must stay below 1, nothing is left to train on")
        return self


class Vae(Section):
    """A small variational autoencoder."""

    latent_channels: Count = Field(description="channels of z")
    widths: Annotated[list[Count], Field(min_length=1)] = Field(
        description="one resolution per entry; one entry keeps the image size"
    )
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="images per step")
    lr: Positive = Field(description="Adam, cosine to lr / 20")
    kl_weight: NonNegative = Field(description="weight of the KL term per latent value")


class Dit(Section):
    """A small diffusion transformer (Peebles & Xie 2023)."""

    width: Count = Field(description="token size")
    depth: Count = Field(description="blocks")
    heads: Count = Field(description="attention heads")
    patch: Count = Field(description="latent pixels per token side")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Dit:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be heads {self.heads} times an even number")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4 (two-dimensional sine positions)")
        return self


class TrainedGenerator(Section):
    """A small VAE and DiT, trained on the real training images."""

    source: Literal["train"] = Field(description="train: on the real training images | pretrained")
    vae: Vae
    dit: Dit
    steps: Count = Field(description="optimiser steps of the DiT")
    batch_size: Count = Field(description="images per step")
    lr: Positive = Field(description="AdamW, linear warm-up then cosine to 0")
    warmup_steps: Index = Field(description="optimiser steps of the warm-up")
    label_dropout: Fraction = Field(
        description="share of labels replaced by the null class, for classifier-free guidance"
    )
    ema_decay: Fraction = Field(description="of the weights that are saved, ramped up as (1 + step) / (10 + step)")
    checkpoint_every: Count = Field(description="steps between checkpoints of an interrupted run")


class PretrainedGenerator(Section):
    """A class-conditional DiT that exists: on the hub, in a folder, or as a checkpoint of its authors."""

    source: Literal["pretrained"] = Field(description="train: on the real training images | pretrained")
    model: str = Field(description="hub id, DiTPipeline folder, or a .pt checkpoint of DiT's authors")
    revision: str | None = Field(description="commit of the hub repository")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        description="of a .pt file; checked where given"
    )
    heads: Count | None = Field(description="attention heads of a .pt file of unusual width")
    vae: str | None = Field(
        description="ema | mse (Stability's fine-tuned decoders), a folder; null: the pipeline's own"
    )
    time_features: Literal["auto", "original", "diffusers"] = Field(
        description="auto | original: what DiT's authors trained with | diffusers: shifted"
    )


class NoGenerator(Section):
    """No generator: all rows are of images that exist."""

    source: Literal["none"] = Field(description="none: every row is of images that exist | train | pretrained")


Generator = Annotated[TrainedGenerator | PretrainedGenerator | NoGenerator, Field(discriminator="source")]


class TrainedEncoder(Section):
    """A small network, trained on the real training images."""

    source: Literal["train"] = Field(description="train: the network below on the real training images | timm")
    network: OwnNetwork = Field(description="convnet | resnetap10 | resnet10..101")
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="images per step")
    lr: Positive = Field(description="SGD, cosine to 0")
    momentum: Decay = Field(description="of SGD")
    weight_decay: NonNegative = Field(description="weight decay")
    cutmix: Fraction = Field(description="probability of CutMix on a batch")


class TimmEncoder(Section):
    """A pretrained timm model with its own preprocessing."""

    source: Literal["timm"] = Field(description="train: a small network on the real training images | timm")
    network: str = Field(description="timm model with its tag (paper: resnet18.tv_in1k); Table 8 has others")
    weights: str | None = Field(description="local weights file; null: from the hub or its cache")


Encoder = Annotated[TrainedEncoder | TimmEncoder, Field(discriminator="source")]


class OwnTeacher(Section):
    """The encoder and its own head."""

    source: Literal["encoder"] = Field(description="encoder: with its own head | train | timm")


class TrainedTeacher(TrainedEncoder):
    """A network of its own, trained on the real training images."""

    norm: Literal["instance", "batch"] = Field(description="normalisation layers")


class TimmTeacher(TimmEncoder):
    """A timm model whose head knows our classes, or ImageNet's."""


Teacher = Annotated[OwnTeacher | TrainedTeacher | TimmTeacher, Field(discriminator="source")]


class Latents(Section):
    """The cache of VAE posteriors."""

    flip: StrictBool = Field(description="also cache the mirror image")
    batch_size: Count = Field(description="images per VAE call")


class Student(Section):
    """A network that is trained on distilled sets."""

    network: NetworkName = Field(description="convnet | resnetap10 | resnet10..101 | timm:<name>")
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of a timm network; of convnet: width, padding"
    )

    @model_validator(mode="after")
    def _options_are_known(self) -> Student:
        if not self.network.startswith("timm:"):
            own_options(self.network, self.options)
        return self


class Finetune(Section):
    """Fine-tuning of the generator (paper Algorithm 1, 5.1)."""

    epochs: Positive = Field(description="passes over the training images (paper: 8)")
    batch_size: Count = Field(description="images per step (paper: 8)")
    lr: Positive = Field(description="AdamW, constant (paper: 1e-3)")
    weight_decay: NonNegative = Field(description="weight decay")
    label_dropout: Fraction = Field(description="share of labels replaced by the null class")
    gamma_fraction: Fraction = Field(description="share of blocks with DiffFit scales (14 of 28 in DiT-XL/2)")
    variational: StrictBool = Field(description="add the term that trains the variance channels (D7)")
    accumulate: Count = Field(description="slices of a batch computed one after the other, to save memory")
    gradient_checkpointing: StrictBool = Field(description="recompute each block in the backward pass, to save memory")
    grad_norm_every: Index = Field(description="steps between logged gradient norms of each loss term; 0: never")
    checkpoint_every: Count = Field(description="steps between checkpoints of an interrupted run")

    @model_validator(mode="after")
    def _batch_divides(self) -> Finetune:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


class Ema(Section):
    """The moving average of fine-tuned weights."""

    decay: Decay = Field(description="per step, over the trainable weights (public code: 0.9999 over all)")
    use_for_sampling: StrictBool = Field(description="sample from the average, not from the last weights")


class Candidates(Section):
    """How much of a pool is made."""

    per_class: Count = Field(description="generated images per class and draw; at least ipc x groups")
    batch_size: Count = Field(description="images per network call and per shard")


class Features(Section):
    """Features of pools."""

    batch_size: Count = Field(description="images per encoder call")


class Eval(Section):
    """What is compared, and how often."""

    methods: Annotated[list[Name], Field(min_length=1)] = Field(description="rows that are compared")
    ipc: Annotated[list[Count], Field(min_length=1)] = Field(description="images per class")
    draws: Count = Field(description="independently drawn distilled sets per method")
    seeds: Count = Field(description="student trainings per set")
    students: Annotated[list[str], Field(min_length=1)] = Field(
        description="rows of students, or networks by their own names"
    )
    protocols: Annotated[list[Name], Field(min_length=1)] = Field(description="rows of protocols")
    split: Literal["test", "validation"] = Field(description="test | validation (for choosing settings)")


class Report(Section):
    """The report page."""

    grid_images: Count = Field(description="images per class and method in the sample grid")
    gallery_images: Count = Field(description="images per method in the gallery of each class")
    tsne_real: Count = Field(description="real images per class in the t-SNE plot")
    tsne_method: Name = Field(description="method in the t-SNE plot and the confusion matrix")


class Compute(Section):
    """The machine; precision and compile move last bits, nothing else of it changes a result."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto | cpu | cuda")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        description="fp32 | bf16: autocast in training, weights in sampling | auto: bf16 where that is faster"
    )
    compile: StrictBool = Field(
        description="torch.compile networks where that pays; falls back to eager without a compiler"
    )
    threads: Index = Field(description="CPU threads; 0: all cores")
    launch: str | None = Field(
        description='several processes, for example "accelerate launch --num_processes 8"; changes no result'
    )
