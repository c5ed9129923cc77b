"""What one image costs in every network: FLOPs, weights, bytes; loads no weights.

Networks are built on the meta device and counted by torch's own FLOP counter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ims3core.base import files
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.planning.cache import cached
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.params import Params

DIT_XL = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)
COUNTED_CODE = ("planning/image_costs.py", "diffusion/autoencoder.py", "diffusion/dit.py", "students/networks.py")
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ImageCosts:
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


def image_costs(params: Params, config: DitConfig, classes: int) -> ImageCosts:
    """The costs of an image in every network of ``params``, stored, because building the networks takes seconds."""
    vae = params.generator.vae if params.generator.source == "train" else None
    encoder = params.encoder.model_dump(include={"source", "network"})
    key = repr((vae, encoder, params.data.channels, params.data.side, number_bytes(params), config, classes))
    if key not in _COUNTED:
        names = [field.name for field in fields(ImageCosts)]
        count = partial(_count, params, config, classes)
        values: dict[str, Any] = cached("networks", [_code(), key], lambda: asdict(count()), fields=names)
        _COUNTED[key] = ImageCosts(**values)
    return _COUNTED[key]


_COUNTED: dict[str, ImageCosts] = {}  # in this process, for the many settings of studies


def _count(params: Params, config: DitConfig, classes: int) -> ImageCosts:
    data = params.data
    with torch.device("meta"):
        dit = DiT(config)
        z, one = torch.zeros(1, config.channels, config.side, config.side), torch.zeros(1, dtype=torch.int64)
        encode, decode, vae_bytes = _vae(params)
        image = torch.zeros(1, data.channels, data.side, data.side)
        forward = {"dit": flops(dit, z, one, one), "encode": flops(encode, image), "decode": flops(decode, z)}
    network, embed = _encoder(params, classes)
    return ImageCosts(
        **forward, embed=embed, weights=sum(p.numel() for p in dit.parameters()), vae_bytes=vae_bytes,
        encoder_bytes=4.0 * sum(p.numel() for p in network.parameters()),
        activations=24.0 * config.tokens * config.width * config.depth * number_bytes(params),
        dim=getattr(network, "num_features", 512), pixels=data.channels * data.side**2, latent=z.numel(),
    )  # fmt: skip


def flops(network: nn.Module, *inputs: torch.Tensor) -> float:
    """FLOPs of one forward pass (a multiply-add counts two), by torch's counter on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return float(counter.get_total_flops())


def generator_config(params: Params, classes: int) -> DitConfig:
    """The size of the generator: that of the parameters, of the folder it is in, or that of DiT-XL/2; least of none."""
    section = params.generator
    if section.source == "train":
        side = params.data.side // 2 ** (len(section.vae.widths) - 1)
        return DitConfig(channels=section.vae.latent_channels, side=side, classes=classes, **section.dit.model_dump())
    if section.source == "none":
        return DitConfig(channels=4, side=1, patch=1, width=4, depth=1, heads=1, classes=classes)
    folder = Path(section.model).expanduser() / "transformer"
    if folder.is_dir():
        from ims3core.diffusion.dit_layout import read_config

        return read_config(folder)
    return replace(DIT_XL, side=params.data.side // 8)


def number_bytes(params: Params) -> int:
    """Bytes of a number in the precision asked for; ``auto`` stands for a machine that computes bf16."""
    return {"fp32": 4, "bf16": 2, "auto": 2}[params.compute.precision]


def student_network(
    name: str, classes: int, channels: int, side: int, options: Options = ()
) -> tuple[nn.Module, float]:
    """A student on the meta device, and its FLOPs per image."""
    with torch.device("meta"):
        network = build_student(name, classes=classes, channels=channels, side=side, seed=0, options=dict(options))
        return network.eval(), flops(network.eval(), torch.zeros(1, channels, side, side))


@cache
def student_flops(name: str, classes: int, channels: int, side: int, options: Options = ()) -> float:
    """FLOPs per image of a student, stored."""
    facts = (name, classes, channels, side, options)
    values = cached("networks", [_code(), facts], lambda: {"flops": student_network(*facts)[1]}, fields=["flops"])
    return values["flops"]


@cache
def _code() -> str:
    """A digest of the code that networks and counts come from."""
    package = Path(__file__).parents[1]
    return " ".join([torch.__version__, *(files.sha256(package / name) for name in COUNTED_CODE)])


def _vae(params: Params) -> tuple[nn.Module, nn.Module, float]:
    """Encoder, decoder and bytes of the VAE on the meta device."""
    section, channels = params.generator, params.data.channels
    with torch.device("meta"):
        if section.source == "train":
            settings = section.vae.model_dump(include={"latent_channels", "widths"})
            vae = build_autoencoder(image_channels=channels, side=params.data.side, seed=0, **settings)
        else:
            vae = stable_diffusion_autoencoder(channels)
    return vae.encoder, vae.decoder, 4.0 * sum(p.numel() for p in vae.parameters())


def _encoder(params: Params, classes: int) -> tuple[nn.Module, float]:
    """The encoder on the meta device, and its FLOPs per image."""
    section, data = params.encoder, params.data
    if section.source != "timm":
        return student_network(section.network, classes, data.channels, data.side)
    import timm

    with torch.device("meta"):
        network = timm.create_model(section.network, pretrained=False)
        side = timm.data.resolve_data_config(model=network)["input_size"][-1]
        return network, flops(network.eval(), torch.zeros(1, 3, side, side))
