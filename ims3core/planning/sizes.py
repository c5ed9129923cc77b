"""How many images and classes a data set has, before and after it was prepared; how large the generator is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import files
from ims3core.base.records import Record
from ims3core.base.schema import Count, Index
from ims3core.data import SPLITS, SplitFacts
from ims3core.diffusion import pretrained
from ims3core.diffusion.dit import DitConfig
from ims3core.diffusion.dit_layout import read_config
from ims3core.errors import ParameterError
from ims3core.ingest.classes import benchmark_lists
from ims3core.params.sections import Dit, PretrainedGenerator, TrainedGenerator, Vae

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.params.sections import Data

KNOWN_IMAGES = {
    "digits": 1797, "FashionMNIST": 70_000, "MNIST": 70_000, "CIFAR10": 60_000, "CIFAR100": 60_000, "cifar10": 60_000,
}  # fmt: skip
PER_IMAGENET_CLASS = 1281  # training images, on average
DIT_XL = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)


class RealFacts(Record):
    """What the manifest of ``data/real`` says of it."""

    source: str
    classes: Count
    side: Count
    channels: Count
    skipped: Index
    test_images_seen_in_training: Index


@dataclass(frozen=True)
class DatasetSize:
    """Numbers of classes and images; ``counted`` in ``data/real``, else estimated from the parameters."""

    classes: int
    train: int
    validation: int
    test: int
    counted: bool


def dataset_size(params: Params, root: Path) -> DatasetSize:
    """The size of ``data/real`` if it was prepared for this source, else what is known of the data set.

    Raises:
        ParameterError: for a source of unknown size that was not prepared yet.
    """
    return _counted(params.data, root / "data/real") or _estimated(params.data)


def _counted(section: Data, real: Path) -> DatasetSize | None:
    """The size of the data set in ``real``; None where it is of another source."""
    if not (real / files.MANIFEST).is_file():
        return None
    facts: RealFacts = files.read_facts(real, "real", RealFacts)
    if any(getattr(facts, key) != getattr(section, key) for key in ("source", "side", "channels")):
        return None
    splits = {name: files.read_facts(real / name, "split", SplitFacts).images for name in SPLITS}
    return DatasetSize(facts.classes, **splits, counted=True)


def _estimated(section: Data) -> DatasetSize:
    lists = {name: len(members) for name, members in benchmark_lists().items()} | {"imagenet1k": 1000}
    if section.classes in lists and section.classes not in KNOWN_IMAGES:
        classes = lists[section.classes]
        train, test = classes * PER_IMAGENET_CLASS, 50 * classes
    elif (name := section.name or section.classes or section.source) in KNOWN_IMAGES:
        classes, images = 100 if name == "CIFAR100" else 10, KNOWN_IMAGES[name]
        test = round(section.test_fraction * images) if name == "digits" else 10_000
        train = images - test
    else:
        raise ParameterError(
            f"data.source: the size of {section.source!r} is known after `ims3 prepare`; run that first"
        )
    validation = round(section.validation_fraction * (train + (test if section.source == "digits" else 0)))
    return DatasetSize(classes, train - validation, validation, test, counted=False)


def with_generator(params: Params) -> Params:
    """``params`` for counting: where there is no generator the smallest stands in; its stages cost nothing."""
    if params.generator.source != "none":
        return params
    vae = Vae(latent_channels=1, widths=[16], steps=1, batch_size=1, lr=0.1, kl_weight=0.0)
    smallest = TrainedGenerator(
        source="train", vae=vae, dit=Dit(width=4, depth=1, heads=1, patch=1), steps=1, batch_size=1, lr=0.1,
        warmup_steps=0, label_dropout=0.0, ema_decay=0.0, checkpoint_every=1,
    )  # fmt: skip
    return params.model_copy(update={"generator": smallest})


def generator_config(params: Params, classes: int) -> DitConfig:
    """The sizes of the generator: those of the parameters, of its folder or checkpoint, else those of DiT-XL/2.

    Of a checkpoint names and shapes are read, no weights.
    """
    section = params.generator
    if isinstance(section, TrainedGenerator):
        side = params.data.side // 2 ** (len(section.vae.widths) - 1)
        return DitConfig(channels=section.vae.latent_channels, side=side, classes=classes, **section.dit.model_dump())
    assert isinstance(section, PretrainedGenerator), "with_generator() comes first"
    path = Path(section.model).expanduser()
    if (path / "transformer").is_dir():
        return read_config(path / "transformer")
    if path.is_file():
        return pretrained.original_config(path, heads=section.heads)
    return replace(DIT_XL, side=params.data.side // 8)
