"""What a data set counts and what one image costs in every network: FLOPs, weights, bytes; loads no weights.

Networks are built on the meta device and counted by torch's own FLOP counter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ims3core.base import files
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.intake.classes import benchmark_lists
from ims3core.planning.kept import kept
from ims3core.shell.errors import ParameterError
from ims3core.shell.scratch import short
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.params import Params

KNOWN_IMAGES = {"digits": 1797, "FashionMNIST": 70_000, "MNIST": 70_000, "CIFAR10": 60_000, "CIFAR100": 60_000}
PER_IMAGENET_CLASS = 1281  # training images, on average
DIT_XL = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)


@dataclass(frozen=True)
class Sizes:
    """How many images and classes, known from ``data/real`` or estimated from the profile."""

    classes: int
    train: int
    validation: int
    test: int
    known: bool


def sizes(params: Params, root: Path) -> Sizes:
    """Counts of ``data/real`` if it was prepared for this source, else what is known of the data set.

    Raises:
        ParameterError: for a source of unknown size that was not prepared yet.
    """
    wanted = params.data
    if (root / "data/real/manifest.json").is_file():
        facts = files.read_json(root / "data/real/manifest.json")["facts"]
        if facts["source"] == wanted.source and facts["side"] == wanted.side and facts["channels"] == wanted.channels:
            parts = {
                n: files.read_json(root / "data/real" / n / "manifest.json")["facts"]["images"]
                for n in ("train", "validation", "test")
            }
            return Sizes(facts["classes"], **parts, known=True)
    lists = {name: len(members) for name, members in benchmark_lists().items()} | {"imagenet1k": 1000}
    if wanted.classes in lists:
        classes = lists[wanted.classes]
        train, test = classes * PER_IMAGENET_CLASS, 50 * classes
    elif (name := wanted.name or wanted.source) in KNOWN_IMAGES:
        classes, total = 100 if name == "CIFAR100" else 10, KNOWN_IMAGES[name]
        test = round(wanted.test_fraction * total) if name == "digits" else 10_000
        train = total - test
    else:
        raise ParameterError(
            f"data.source: the size of {wanted.source!r} is known after `ims3 prepare`; run that first"
        )
    validation = round(wanted.validation_fraction * (train + (test if wanted.source == "digits" else 0)))
    return Sizes(classes, train - validation, validation, test, known=False)


def flops(network: nn.Module, *inputs: torch.Tensor) -> float:
    """FLOPs of one forward pass (a multiply-add counts two), by torch's counter on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return float(counter.get_total_flops())


def dit_config(params: Params, root: Path, count: Sizes) -> DitConfig:
    """Sizes of the generator: of the params, of the folder it is in, or those of DiT-XL/2."""
    wanted = params.generator
    if wanted.source == "train":
        side = params.data.side // 2 ** (len(wanted.vae.widths) - 1)
        return DitConfig(
            channels=wanted.vae.latent_channels, side=side, classes=count.classes, **wanted.dit.model_dump()
        )
    folder = Path(wanted.model).expanduser() / "transformer"
    if folder.is_dir():
        from ims3core.diffusion.dit_layout import read_config

        return read_config(folder)
    return replace(DIT_XL, side=params.data.side // 8)


def vae_parts(params: Params) -> tuple[nn.Module, nn.Module, float]:
    """Encoder, decoder and bytes of the VAE on the meta device."""
    wanted, channels = params.generator, params.data.channels
    with torch.device("meta"):
        if wanted.source == "train":
            settings = wanted.vae.model_dump(include={"latent_channels", "widths"})
            vae = build_autoencoder(image_channels=channels, side=params.data.side, seed=0, **settings)
        else:
            vae = stable_diffusion_autoencoder(channels)
    return vae.encoder, vae.decoder, 4.0 * sum(p.numel() for p in vae.parameters())


@dataclass(frozen=True)
class Units:
    """What one image costs in each network, and what the networks weigh.

    Attributes:
        dit, encode, decode, embed: FLOPs of a forward pass: DiT, VAE encoder, VAE decoder, feature encoder.
        weights: of the DiT.
        vae_bytes, encoder_bytes: size of the other networks.
        activations: bytes a DiT keeps for the backward pass, per image.
        dim: length of a feature.
        pixels: bytes of an image.
        latent: values of a latent.
    """

    dit: float
    encode: float
    decode: float
    embed: float
    weights: int
    vae_bytes: float
    encoder_bytes: float
    activations: float
    dim: int
    pixels: int
    latent: int


COUNTED = ("planning/units.py", "diffusion/autoencoder.py", "diffusion/dit.py", "students/networks.py")


@cache
def _code() -> str:
    """A digest of the code that networks and counts come from."""
    home = Path(__file__).parents[1]
    return short([torch.__version__, *(files.sha256(home / name) for name in COUNTED)])


def units(params: Params, config: DitConfig, count: Sizes) -> Units:
    """Every network counted once on the meta device; what was counted is kept, for building them takes seconds."""
    vae = params.generator.vae if params.generator.source == "train" else None
    encoder = params.encoder.model_dump(include={"source", "network"})
    key = repr((vae, encoder, params.data.channels, params.data.side, number_bytes(params), config, count.classes))
    if key not in _KNOWN:
        found = kept(
            "networks", [_code(), key], lambda: asdict(_counted(params, config, count)),
            fields=[one.name for one in fields(Units)],
        )  # fmt: skip
        _KNOWN[key] = Units(**found)
    return _KNOWN[key]


_KNOWN: dict[str, Units] = {}  # in this process, for the many settings of studies


def _counted(params: Params, config: DitConfig, count: Sizes) -> Units:
    data = params.data
    with torch.device("meta"):
        dit = DiT(config)
        z, one = torch.zeros(1, config.channels, config.side, config.side), torch.zeros(1, dtype=torch.int64)
        encode, decode, vae_bytes = vae_parts(params)
        image = torch.zeros(1, data.channels, data.side, data.side)
        forward = {"dit": flops(dit, z, one, one), "encode": flops(encode, image), "decode": flops(decode, z)}
    network, embed = _encoder(params, count)
    return Units(
        **forward, embed=embed, weights=sum(p.numel() for p in dit.parameters()), vae_bytes=vae_bytes,
        encoder_bytes=4.0 * sum(p.numel() for p in network.parameters()),
        activations=24.0 * config.tokens * config.width * config.depth * number_bytes(params),
        dim=getattr(network, "num_features", 512), pixels=data.channels * data.side**2, latent=z.numel(),
    )  # fmt: skip


def number_bytes(params: Params) -> int:
    """Bytes of a number in the precision asked for; ``auto`` stands for a machine that computes bf16."""
    return {"fp32": 4, "bf16": 2, "auto": 2}[params.compute.precision]


def _encoder(params: Params, count: Sizes) -> tuple[nn.Module, float]:
    """The encoder on the meta device, and its FLOPs per image."""
    wanted, data = params.encoder, params.data
    if wanted.source == "timm":
        import timm

        with torch.device("meta"):
            network = timm.create_model(wanted.network, pretrained=False)
            side = timm.data.resolve_data_config(model=network)["input_size"][-1]
            return network, flops(network.eval(), torch.zeros(1, 3, side, side))
    return student_network(wanted.network, count.classes, data.channels, data.side)


def student_network(
    name: str, classes: int, channels: int, side: int, options: tuple[tuple[str, Any], ...] = ()
) -> tuple[nn.Module, float]:
    """A student on the meta device, and its FLOPs per image."""
    with torch.device("meta"):
        network = build_student(
            name, classes=classes, channels=channels, side=side, seed=0, options=dict(options)
        ).eval()  # fmt: skip
        return network, flops(network, torch.zeros(1, channels, side, side))


@cache
def student_flops(
    name: str, classes: int, channels: int, side: int, options: tuple[tuple[str, Any], ...] = ()
) -> float:  # fmt: skip
    """FLOPs per image of a student; counted once and kept."""
    facts = (name, classes, channels, side, options)
    return kept("networks", [_code(), facts], lambda: {"flops": student_network(*facts)[1]}, fields=["flops"])["flops"]
