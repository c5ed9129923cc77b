"""What one image costs in every network: FLOPs, weights, bytes; loads no weights.

Networks are built without values and run as they are run in a stage, on tensors without values: torch's own counter
counts the FLOPs, and the bytes that are alive at once are added up as tensors come and go.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ims3core.base import files
from ims3core.diffusion import difffit
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DEEP, DiT, DitConfig
from ims3core.params import sections
from ims3core.planning.cache import cached
from ims3core.students.networks import FeatureNetwork, build_student

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ims3core.params import Params

COUNTED_CODE = (
    "planning/image_costs.py", "diffusion/autoencoder.py", "diffusion/dit.py", "diffusion/difffit.py",
    "students/networks.py",
)  # fmt: skip
BATCHES = 32, 64  # large enough for what images take to outweigh what weights take
Options = tuple[tuple[str, Any], ...]
Inputs = Callable[[int], tuple[torch.Tensor, ...]]
"""A batch of so many images, without values, as a network takes them."""


@dataclass(frozen=True)
class NetworkCosts:
    """What a network weighs, and what one image costs in it.

    Attributes:
        flops: of a forward pass, a multiply-add counts two.
        weights: how many there are.
        forward: bytes that an image takes beside the weights, at most, in a pass without gradients.
        backward: the same of a pass forward and back that trains the weights.
        through: the same of a pass forward and back through frozen weights; of a DiT with its DiffFit weights trained.
    """

    flops: float
    weights: float
    forward: float
    backward: float
    through: float


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
    images, latents = partial(_images, data.channels, data.side), partial(_images, config.channels, config.side)
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
        return network, partial(_images, channels, side)

    facts = ["student", name, classes, channels, side, options, norm, precision, frozen]
    return stored(facts, lambda: (count_classifier if frozen else count)(build, precision))


_STORED: dict[str, NetworkCosts] = {}  # in this process, for the many settings of studies


def stored(facts: list[Any], compute: Callable[[], NetworkCosts]) -> NetworkCosts:
    """The costs that ``compute`` counts, once for the same ``facts``."""
    key = repr(facts)
    if key not in _STORED:
        names = [field.name for field in fields(NetworkCosts)]
        _STORED[key] = NetworkCosts(**cached("networks", [_code(), key], lambda: asdict(compute()), fields=names))
    return _STORED[key]


def count(build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool = True) -> NetworkCosts:
    """Runs a network without values, without and with gradients.

    Args:
        build: makes the network and the function of its inputs; where it has DiffFit weights, the frozen passes train
            these.
        precision: ``bf16`` runs under autocast.
        trained: whether anything trains its weights; else ``backward`` is ``through``.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        network, inputs = build()
        work = flops(network.eval(), *inputs(1))  # the counter does not know the fused attention of processors
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = network.to_empty(device="cpu")
        every = {name for name, _ in network.named_parameters()}
        some = {name for name, weight in network.named_parameters() if weight.requires_grad}

        def slope(names: set[str], *, back: bool) -> float:
            for name, weight in network.named_parameters():
                weight.requires_grad_(name in names)
            hooks = [
                weight.register_post_accumulate_grad_hook(_forget) for weight in network.parameters()
                if weight.requires_grad
            ]  # fmt: skip
            one, two = (_peak(network, inputs, precision, batch, back=back) for batch in BATCHES)
            for hook in hooks:
                hook.remove()
            return (two - one) / (BATCHES[1] - BATCHES[0])

        forward = slope(set(), back=False)
        through = slope(some if some != every else set(), back=True)
        backward = slope(every, back=True) if trained else through
    weights = sum(weight.numel() for weight in network.parameters())
    return NetworkCosts(work, weights, forward, backward, through)


def count_classifier(
    build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool = True
) -> NetworkCosts:  # fmt: skip
    """The costs of an encoder or a teacher, which is asked in fp32, and trained or looked through in ``precision``."""
    costs = count(build, precision, trained=trained)
    return costs if precision == "fp32" else replace(costs, forward=count(build, "fp32", trained=False).forward)


def count_decoder(
    build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool
) -> NetworkCosts:  # fmt: skip
    """The costs of a VAE's decoder, which is asked and trained in fp32, and looked through in ``precision``."""
    costs = count(build, "fp32", trained=trained)
    return costs if precision == "fp32" else replace(costs, through=count(build, precision, trained=False).through)


def count_dit(config: DitConfig, gamma_fraction: float, recompute: bool, precision: str) -> NetworkCosts:
    """The costs of a DiT; those of a deep one follow from two shallow ones, because its blocks are alike."""

    def of_depth(depth: int) -> NetworkCosts:
        shallow = replace(config, depth=depth)
        return count(partial(_dit, shallow, gamma_fraction, recompute), precision)

    if config.depth <= DEEP:
        return of_depth(config.depth)
    one, two = (asdict(of_depth(depth)) for depth in (DEEP // 4, DEEP // 2))
    blocks = (config.depth - DEEP // 4) / (DEEP // 4)
    return NetworkCosts(**{name: one[name] + blocks * (two[name] - one[name]) for name in one})


def flops(network: nn.Module, *inputs: torch.Tensor) -> float:
    """FLOPs of one forward pass (a multiply-add counts two), by torch's counter on tensors without values."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return float(counter.get_total_flops())


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of tensors that are alive, of those made while it is open; ``peak`` is the most at once.

    Args:
        known: tensors that are there already and do not count.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0.0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._seen:
            self._seen.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _peak(network: nn.Module, inputs: Inputs, precision: str, batch: int, *, back: bool = False) -> float:
    """Most bytes alive during a pass of a batch, beside weights, their gradients and inputs."""
    tensors = [x.requires_grad_(back) if x.is_floating_point() else x for x in inputs(batch)]
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    known = [*network.parameters(), *network.buffers(), *tensors]
    with LiveBytes(known) as live, torch.set_grad_enabled(back), autocast:
        result = network(*tensors)
        if back:
            result.float().sum().backward()
    return live.peak


def _forget(weight: torch.Tensor) -> None:
    """Gradients of weights are as many as weights, whatever the batch: they would hide what an image takes."""
    weight.grad = None


def precision_of(params: Params) -> str:
    """That of networks in training; ``auto`` stands for a machine that computes bf16."""
    return "fp32" if params.compute.precision == "fp32" else "bf16"


def number_bytes(params: Params) -> int:
    """Bytes of a number in the precision asked for."""
    return 4 if precision_of(params) == "fp32" else 2


def _images(channels: int, side: int, batch: int) -> tuple[torch.Tensor, ...]:
    return (torch.zeros(batch, channels, side, side),)


def _dit(config: DitConfig, gamma_fraction: float, recompute: bool) -> tuple[nn.Module, Inputs]:
    """A DiT of which what DiffFit trains requires a gradient."""
    network = DiT(config)
    network.checkpoint_blocks = recompute
    difffit.add_scales(network, gamma_fraction)
    difffit.freeze_all_but_difffit(network)

    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        label = torch.zeros(batch, dtype=torch.int64)
        return *_images(config.channels, config.side, batch), label, label

    return network, inputs


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
    return _timm(name), partial(_images, 3, side)


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

    values = cached("networks", [_code(), "timm-facts", name], read, fields=["side", "dim"])
    return {key: int(value) for key, value in values.items()}


@cache
def _code() -> str:
    """A digest of the code that networks and counts come from."""
    package = Path(__file__).parents[1]
    return " ".join([torch.__version__, *(files.sha256(package / name) for name in COUNTED_CODE)])
