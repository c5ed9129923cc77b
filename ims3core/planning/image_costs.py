"""What one image costs in every network of a run: FLOPs, weights, bytes; loads no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ims3core.base import files
from ims3core.base.measurements import cached
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DitConfig
from ims3core.params import sections
from ims3core.planning.counting import (
    Inputs,
    NetworkCosts,
    count,
    count_classifier,
    count_decoder,
    count_dit,
    images_of,
)
from ims3core.students.networks import FeatureNetwork, build_student

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ims3core.params import Params

COUNTED_CODE = (
    "planning/image_costs.py", "planning/counting.py", "diffusion/autoencoder.py", "diffusion/dit.py",
    "diffusion/difffit.py", "students/networks.py",
)  # fmt: skip
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Networks:
    """The networks of a run.

    Attributes:
        dit, encode, decode: the generator and the two halves of its VAE.
        embed, teacher: the feature encoder and the teacher.
        dim: length of a feature.
    """

    dit: NetworkCosts
    encode: NetworkCosts
    decode: NetworkCosts
    embed: NetworkCosts
    teacher: NetworkCosts
    dim: int


def networks(params: Params, config: DitConfig, classes: int) -> Networks:
    """The networks of ``params``; their costs are stored, because building them takes seconds."""
    data, encoder, teacher = params.data, params.encoder, params.teacher
    fine, precision = params.finetune, precision_of(params)
    facts = [_generator(params).vae, data.channels, data.side, _folder_facts(params)]
    images, latents = partial(images_of, data.channels, data.side), partial(images_of, config.channels, config.side)
    own = isinstance(params.generator, sections.TrainedGenerator)
    embed = classifier_costs(encoder, classes, data.channels, data.side, precision)
    return Networks(
        dit=stored(
            ["dit", config, fine.gamma_fraction, fine.gradient_checkpointing, precision],
            lambda: count_dit(config, fine.gamma_fraction, fine.gradient_checkpointing, precision),
        ),
        encode=stored(
            ["encode", *facts], lambda: count(lambda: (_vae(params).encoder, images), "fp32", trained=own)
        ),
        decode=stored(
            ["decode", *facts, config, precision],
            lambda: count_decoder(lambda: (_vae(params).decoder, latents), precision, trained=own),
        ),
        embed=embed,
        teacher=embed if isinstance(teacher, sections.OwnTeacher)
        else classifier_costs(teacher, classes, data.channels, data.side, precision),
        dim=feature_length(encoder, classes, data.channels, data.side),
    )  # fmt: skip


def classifier_costs(section: Any, classes: int, channels: int, side: int, precision: str) -> NetworkCosts:
    """Encoder or teacher: a network of our own at the side of the images, or one of timm at its own."""
    if section.source != "timm":
        return student_costs(
            section.network, classes, channels, side, precision, norm=getattr(section, "norm", ""), frozen=True
        )
    side = _timm_facts(section.network)["side"]
    build = partial(_timm_with_inputs, section.network, side)
    return stored(["timm", section.network, side, precision], lambda: count_classifier(build, precision, trained=False))


def feature_length(section: Any, classes: int, channels: int, side: int) -> int:
    """The length of an encoder's features."""
    if section.source == "timm":
        return _timm_facts(section.network)["dim"]
    with torch.device("meta"):
        network = build_student(section.network, classes=classes, channels=channels, side=side, seed=0)
    assert isinstance(network, FeatureNetwork)
    return network.head.in_features


def student_costs(
    name: str, classes: int, channels: int, side: int, precision: str, *, options: Options = (), norm: str = "",
    frozen: bool = False,
) -> NetworkCosts:  # fmt: skip
    """A student's, or another network of our own; one that is asked ``frozen``, as encoders are, in fp32."""

    def build() -> tuple[nn.Module, Inputs]:
        network = build_student(
            name, classes=classes, channels=channels, side=side, seed=0, norm=norm or "instance", options=dict(options)
        )
        return network, partial(images_of, channels, side)

    facts = ["student", name, classes, channels, side, options, norm, precision, frozen]
    return stored(facts, lambda: (count_classifier if frozen else count)(build, precision))


_STORED: dict[str, NetworkCosts] = {}  # in this process, for the many settings of studies


def stored(facts: list[Any], compute: Callable[[], NetworkCosts]) -> NetworkCosts:
    """The costs that ``compute`` counts, once for the same ``facts``."""
    key = repr(facts)
    if key not in _STORED:
        names = [field.name for field in fields(NetworkCosts)]
        _STORED[key] = NetworkCosts(**cached("networks", [code_digest(), key], lambda: asdict(compute()), fields=names))
    return _STORED[key]


def precision_of(params: Params) -> str:
    """That of networks in training; ``auto`` stands for a machine that computes bf16."""
    return "fp32" if params.compute.precision == "fp32" else "bf16"


def number_bytes(params: Params) -> int:
    """Bytes of a number in the precision asked for."""
    return 4 if precision_of(params) == "fp32" else 2


def _generator(params: Params) -> sections.TrainedGenerator | sections.PretrainedGenerator:
    """The generator that is counted (:func:`ims3core.planning.sizes.with_generator`)."""
    assert not isinstance(params.generator, sections.NoGenerator), "with_generator() comes first"
    return params.generator


def _vae(params: Params) -> AutoencoderKL:
    """The VAE: of the parameters, of the folder it is in, or Stable Diffusion's."""
    section, channels = _generator(params), params.data.channels
    if isinstance(section, sections.TrainedGenerator):
        settings = section.vae.model_dump(include={"latent_channels", "widths"})
        return build_autoencoder(image_channels=channels, side=params.data.side, seed=0, **settings)
    if (path := _vae_config(section)) is None:
        return stable_diffusion_autoencoder(channels)
    from diffusers import AutoencoderKL

    network: AutoencoderKL = AutoencoderKL.from_config(files.read_json(path))
    return network


def vae_slice(params: Params, values: int) -> int:
    """Images that the VAE is given at once where a full-size feature map may have ``values`` values."""
    from ims3core.diffusion.autoencoder import images_at_once

    with torch.device("meta"):
        return images_at_once(_vae(params), params.data.side, values)


def _vae_config(section: sections.PretrainedGenerator) -> Path | None:
    """The configuration of a pretrained generator's VAE, where it is in a folder."""
    path = Path(section.vae or Path(section.model, "vae")).expanduser() / "config.json"
    return path if path.is_file() else None


def _folder_facts(params: Params) -> str:
    """What is in a pretrained VAE's configuration."""
    section = _generator(params)
    path = None if isinstance(section, sections.TrainedGenerator) else _vae_config(section)
    return "" if path is None else files.sha256(path)


def _timm_with_inputs(name: str, side: int) -> tuple[nn.Module, Inputs]:
    return _timm(name), partial(images_of, 3, side)


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False)
    return network


@cache
def _timm_facts(name: str) -> dict[str, int]:
    """Side of the images and length of the features of a timm model."""

    def read() -> dict[str, float]:
        import timm

        with torch.device("meta"):
            network = _timm(name)
        config = timm.data.resolve_data_config(model=network)
        features: Any = network
        return {"side": config["input_size"][-1], "dim": features.num_features}

    values = cached("networks", [code_digest(), "timm-facts", name], read, fields=["side", "dim"])
    return {key: int(value) for key, value in values.items()}


@cache
def code_digest(names: Iterable[str] = COUNTED_CODE) -> str:
    """Of torch and of files of the package: without any, of those that networks and counts come from."""
    package = Path(__file__).parents[1]
    return " ".join([torch.__version__, *(files.sha256(package / name) for name in names)])
