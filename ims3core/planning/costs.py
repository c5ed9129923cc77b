"""What every stage will cost: calls, FLOPs, images, memory and disk; loads no weights.

Networks are built on the meta device and counted by torch's own FLOP counter.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ims3core.base import files
from ims3core.data import pools
from ims3core.diffusion.autoencoder import build_autoencoder, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.training import epochs_to_steps
from ims3core.intake.classes import benchmark_lists
from ims3core.planning.kept import kept
from ims3core.shell.errors import ParameterError
from ims3core.shell.scratch import short
from ims3core.students import protocols
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.params import Params

GIB = 2**30
BASE_MEMORY = 0.6 * GIB  # of a process that has imported torch
KNOWN_IMAGES = {"digits": 1797, "FashionMNIST": 70_000, "MNIST": 70_000, "CIFAR10": 60_000, "CIFAR100": 60_000}
PER_IMAGENET_CLASS = 1281  # training images, on average
DIT_XL = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)


@dataclass(frozen=True)
class Cost:
    """One row of the plan. ``kind`` names the rate that turns ``flops`` into seconds; 0 FLOPs cost start-up only."""

    stage: str
    kind: str
    calls: int = 0
    flops: float = 0.0
    images: int = 0
    memory: float = BASE_MEMORY
    disk: float = 0.0
    processes: int = 1


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


COUNTED = ("planning/costs.py", "diffusion/autoencoder.py", "diffusion/dit.py", "students/networks.py")


@cache
def _code() -> str:
    """A digest of the code that networks and counts come from."""
    home = Path(__file__).parents[1]
    return short([torch.__version__, *(files.sha256(home / name) for name in COUNTED)])


def units(params: Params, config: DitConfig, count: Sizes) -> Units:
    """Every network counted once on the meta device; what was counted is kept, for building them takes seconds."""
    vae = params.generator.vae if params.generator.source == "train" else None
    encoder = params.encoder.model_dump(include={"source", "network"})
    key = repr((vae, encoder, params.data.channels, params.data.side, _bytes(params), config, count.classes))
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
        activations=24.0 * config.tokens * config.width * config.depth * _bytes(params),
        dim=getattr(network, "num_features", 512), pixels=data.channels * data.side**2, latent=z.numel(),
    )  # fmt: skip


def costs(params: Params, root: Path) -> tuple[list[Cost], Sizes]:
    """The plan: one row per DVC stage, in the order of the graph."""
    count = sizes(params, root)
    config = dit_config(params, root, count)
    unit = units(params, config, count)
    everything = count.train + count.validation + count.test
    stored = unit.pixels if params.data.storage == "pixels" else 120
    rows = [Cost("prepare", "decode", images=everything, disk=everything * stored)]
    rows += _once(params, count, unit)
    rows += [_finetune(params, name, count, unit) for name in params.adaptations]
    rows += [_guide(params, name, count, unit) for name in params.guides]
    rows += _pools(params, config, count, unit)
    methods = len(params.methods)
    chosen = sum(params.eval.ipc) * count.classes * params.eval.draws * methods
    rows.append(Cost("centroids", "none", processes=len(params.centroids)))
    rows.append(Cost("select", "none", images=chosen, disk=chosen * unit.pixels, processes=methods))
    for name in params.refined:
        rows += _refined(params, name, count, unit)
    rows.append(Cost("labels", "none", processes=len(params.eval.protocols)))
    rows += _students(params, count)
    rows.append(Cost("report", "none"))
    return rows, count


def _bytes(params: Params) -> int:
    """Bytes of a number in the precision asked for; ``auto`` stands for a machine that computes bf16."""
    return {"fp32": 4, "bf16": 2, "auto": 2}[params.compute.precision]


def _once(params: Params, count: Sizes, unit: Units) -> list[Cost]:
    """Generator, encoder and latents."""
    made, encoder, size = params.generator, params.encoder, 4 * unit.weights + unit.vae_bytes
    if made.source == "train":
        work = made.steps * made.batch_size * unit.dit + made.vae.steps * made.vae.batch_size * (
            unit.encode + unit.decode
        )
        memory = BASE_MEMORY + 16 * unit.weights + made.batch_size * unit.activations
        generator = Cost("generator", "dit_train", made.steps + made.vae.steps, 3.0 * work, count.train, memory, size)
    else:
        generator = Cost("generator", "none", memory=BASE_MEMORY + 8 * unit.weights, disk=size)
    steps, batch = (encoder.steps, encoder.batch_size) if encoder.source == "train" else (0, 0)
    images = count.train * (1 + params.latents.flip)
    calls = (1 + params.latents.flip) * -(-count.train // params.latents.batch_size)
    return [
        generator,
        Cost("encoder", "student_train", steps, 3.0 * steps * batch * unit.embed, disk=unit.encoder_bytes),
        Cost("latents", "vae", calls, images * unit.encode, count.train, disk=2 * 4.0 * images * unit.latent),
    ]


def _pools(params: Params, config: DitConfig, count: Sizes, unit: Units) -> list[Cost]:
    """Candidates and features of every pool."""
    grid, candidates, features = params.eval, [], []
    for name in params.pools:
        parts = params.pool(name)
        wanted = pools.wanted(
            parts, seed=params.seed, draws=grid.draws, ipc=grid.ipc, classes=count.classes,
            compiled=params.compute.compile,
        )  # fmt: skip
        images = count.train
        if parts.source.module.maker is None:
            candidates.append(Cost(f"candidates@{name}", "none", images=images))
        else:
            drawn = [wanted.count(ipc) * count.classes for ipc in wanted.ipcs for _ in range(wanted.draws)]
            images, shards = sum(drawn), sum(-(-each // wanted.batch_size) for each in drawn)
            sampled = shards * wanted.fullest if wanted.compiled else images  # the last of a draw is padded
            calls = parts.source.module.calls(wanted, **parts.source.values)
            per_image = 2 * unit.activations / config.depth + 16.0 * unit.pixels * 4
            memory = BASE_MEMORY + _bytes(params) * unit.weights + unit.vae_bytes + wanted.batch_size * per_image
            work, disk = sampled * calls * unit.dit + images * unit.decode, images * (unit.pixels + 4.0 * unit.latent)
            network_calls = shards * calls
            candidates.append(Cost(f"candidates@{name}", "dit_sample", network_calls, work, images, memory, disk))
        batches, disk = -(-images // params.features.batch_size), 4.0 * images * unit.dim
        features.append(Cost(f"features@{name}", "student_eval", batches, images * unit.embed, images, disk=disk))
    return candidates + features


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


def _finetune(params: Params, name: str, count: Sizes, unit: Units) -> Cost:
    """Frozen weights need no gradient of their own: a pass forward and back costs twice a forward pass."""
    wanted, adaptation = params.finetune, params.adaptation(name)
    if adaptation.name == "none":
        return Cost(f"finetune@{name}", "none")
    passes = adaptation.module.passes(**adaptation.values)
    steps = epochs_to_steps(wanted.epochs, images=count.train, batch_size=wanted.batch_size)
    batch = min(wanted.batch_size, count.train)
    kept = unit.activations * (0.1 if wanted.gradient_checkpointing else passes / 2)
    memory = BASE_MEMORY + 4 * unit.weights + batch / wanted.accumulate * kept
    work, trainable = steps * batch * passes * unit.dit, 0.01 * unit.weights
    return Cost(f"finetune@{name}", "dit_train", round(steps * passes / 2), work, steps * batch, memory, 4 * trainable)


def _guide(params: Params, name: str, count: Sizes, unit: Units) -> Cost:
    """What a guide prepares once per class."""
    guide = params.guide(name)
    if guide.name == "none":
        return Cost(f"guides@{name}", "none")
    calls = guide.module.calls(count.train // count.classes, **guide.values) * count.classes
    return Cost(f"guides@{name}", "dit_sample" if calls else "none", calls, calls * unit.dit, count.train)


def _refined(params: Params, name: str, count: Sizes, unit: Units) -> list[Cost]:
    """What a refinement does to all sets of a row, by the networks it asks."""
    grid, refinement = params.eval, params.refinement(name)
    sets = [ipc for ipc in grid.ipc for _ in range(grid.draws)]
    own = {"generator": ("dit_train", unit.dit), "decoder": ("vae", unit.decode)}
    own["teacher"] = ("student_train", unit.embed)
    rows: list[Cost] = []
    passes = refinement.module.passes(sets, count.classes, **refinement.values)
    for network, images in (passes or {"teacher": 0.0}).items():
        if network in own:
            kind, forward = own[network]
        else:
            kind = "student_train"
            forward = student_flops(network, count.classes, params.data.channels, params.data.side)
        title = f"refine@{name}" if not rows else f"refine@{name} ({network})"
        shown = sum(sets) * count.classes
        rows.append(Cost(title, kind, flops=images * forward, images=shown, processes=0 if rows else 1))
    return rows


def _students(params: Params, count: Sizes) -> list[Cost]:
    """All cells of one student and protocol together, and the upper bound."""
    grid, tested = params.eval, count.test if params.eval.split == "test" else count.validation
    rows = []
    for student, protocol in itertools.product(grid.students, grid.protocols):
        rules = params.protocols[protocol]
        side = rules.side or params.data.side
        network, options = params.network(student), tuple(params.network_options(student).items())
        forward = student_flops(network, count.classes, params.data.channels, side, options)

        def run(
            images: int, ipc: int, forward: float = forward, rules: Any = rules, network: str = network
        ) -> tuple[int, float]:
            plan = protocols.plan(ipc=ipc, classes=count.classes, images=images, **rules.plan(network))
            shown = plan.total_steps * min(plan.batch_size, images)
            return plan.total_steps, forward * (3.0 * shown + len(plan.evaluation_steps) * tested)

        cells = [run(ipc * count.classes, ipc) for ipc in grid.ipc for _ in grid.methods]
        runs, (calls, work) = grid.draws * grid.seeds, (sum(column) for column in zip(*cells, strict=True))
        what = student if len(grid.protocols) == 1 else f"{student}, {protocol}"
        rows.append(Cost(f"students ({what})", "student_train", runs * calls, runs * work, processes=len(cells)))
        steps, work = run(count.train, count.train // count.classes)
        rows.append(Cost(f"full_data ({what})", "student_train", grid.seeds * steps, grid.seeds * work))
    return rows
