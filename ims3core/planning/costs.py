"""What every stage will cost: calls, FLOPs, images, memory and disk; loads no weights.

Networks are built on the meta device and counted by torch's own FLOP counter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ims3core import files
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.training import epochs_to_steps
from ims3core.errors import ParameterError
from ims3core.students import protocols
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.params import Params

GIB = 2**30
BASE_MEMORY = 0.6 * GIB  # of a process that has imported torch
KNOWN_IMAGES = {"digits": 1797, "FashionMNIST": 70_000, "MNIST": 70_000, "CIFAR10": 60_000, "CIFAR100": 60_000}
PER_IMAGENET_CLASS = 1281  # training images, on average
LISTS = {"imagewoof": 10, "imagenette": 10, "imageidc": 10, "imagenet100": 100, "imagenet1k": 1000}
DIT_XL = DitConfig(channels=4, side=32, patch=2, width=1152, depth=28, heads=16, classes=1000)
SD_VAE = {"widths": [128, 256, 512, 512], "layers": 2, "latent_channels": 4}


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
    if wanted.classes in LISTS:
        classes = LISTS[wanted.classes]
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
    from diffusers import AutoencoderKL

    wanted = params.generator
    trained = wanted.source == "train"
    widths = wanted.vae.widths if trained else SD_VAE["widths"]
    with torch.device("meta"):
        vae = AutoencoderKL(
            in_channels=params.data.channels, out_channels=params.data.channels, block_out_channels=tuple(widths),
            down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=1 if trained else SD_VAE["layers"], norm_num_groups=8,
            latent_channels=wanted.vae.latent_channels if trained else SD_VAE["latent_channels"],
            mid_block_add_attention=not trained,
        )  # fmt: skip
    return vae.encoder, vae.decoder, 4.0 * sum(p.numel() for p in vae.parameters())


def costs(params: Params, root: Path) -> tuple[list[Cost], Sizes]:
    """The plan: one row per DVC stage, in the order of the graph."""
    count = sizes(params, root)
    config, data, grid = dit_config(params, root, count), params.data, params.eval
    bytes_ = {"fp32": 4, "bf16": 2}[params.compute.precision]
    with torch.device("meta"):
        dit = DiT(config)
        z = torch.zeros(1, config.channels, config.side, config.side)
        one, image = torch.zeros(1, dtype=torch.int64), torch.zeros(1, data.channels, data.side, data.side)
        dit_flops = flops(dit, z, one, one)
        encode, decode, vae_bytes = vae_parts(params)
        encode_flops, decode_flops = flops(encode, image), flops(decode, z)
    weights = sum(p.numel() for p in dit.parameters())
    activations = 24.0 * config.tokens * config.width * config.depth * bytes_  # kept for the backward pass, per image
    pixels, all_images = data.channels * data.side**2, count.train + count.validation + count.test
    rows = [
        Cost("prepare", "decode", images=all_images, disk=all_images * (pixels if data.storage == "pixels" else 120))
    ]

    made = params.generator
    if made.source == "train":
        steps, batch = made.steps + made.vae.steps, made.batch_size
        work = 3.0 * (
            made.steps * batch * dit_flops + made.vae.steps * made.vae.batch_size * (encode_flops + decode_flops)
        )
        memory = BASE_MEMORY + 16 * weights + batch * activations
        rows.append(Cost("generator", "dit_train", steps, work, count.train, memory, 4 * weights + vae_bytes))
    else:
        rows.append(Cost("generator", "none", memory=BASE_MEMORY + 8 * weights, disk=4 * weights + vae_bytes))
    network, encoder_flops = _encoder(params, count)
    dim, encoder_bytes = (
        network.num_features if hasattr(network, "num_features") else 512,
        4.0 * sum(p.numel() for p in network.parameters()),
    )
    trained = params.encoder.source == "train"
    steps = params.encoder.steps if trained else 0
    rows.append(
        Cost(
            "encoder",
            "student_train",
            steps,
            3.0 * steps * (params.encoder.batch_size if trained else 0) * encoder_flops,
            disk=encoder_bytes,
        )
    )

    variants = 1 + params.latents.flip
    latent_bytes = 2 * 4.0 * variants * count.train * config.channels * config.side**2
    rows.append(
        Cost(
            "latents",
            "vae",
            variants * -(-count.train // params.latents.batch_size),
            variants * count.train * encode_flops,
            count.train,
            disk=latent_bytes,
        )
    )
    for name, adaptation in params.adaptations.items():
        rows.append(_finetune(params, name, adaptation.loss, count, dit_flops, weights, activations))
    for name, pool in params.pools.items():
        if pool.source == "real":
            rows.append(Cost(f"candidates@{name}", "none", images=count.train))
            continue
        wanted = params.candidates
        images, guided = grid.draws * count.classes * wanted.per_class, 1 + (wanted.guidance != 1)
        work = images * (wanted.steps * guided * dit_flops + decode_flops)
        memory = (
            BASE_MEMORY
            + bytes_ * weights
            + vae_bytes
            + wanted.batch_size * (guided * activations / config.depth + 16.0 * pixels * 4)
        )
        calls = -(-images // wanted.batch_size) * wanted.steps
        rows.append(Cost(f"candidates@{name}", "dit_sample", calls, work, images, memory, images * pixels))
    for name, pool in params.pools.items():
        images = count.train if pool.source == "real" else grid.draws * count.classes * params.candidates.per_class
        rows.append(
            Cost(
                f"features@{name}",
                "student_eval",
                -(-images // params.features.batch_size),
                images * encoder_flops,
                images,
                disk=4.0 * images * dim,
            )
        )
    rows.append(Cost("centroids", "none", processes=len(params.centroids)))
    chosen = sum(grid.ipc) * count.classes * grid.draws
    rows.append(
        Cost(
            "select",
            "none",
            images=chosen * len(params.methods),
            disk=chosen * len(params.methods) * pixels,
            processes=len(params.methods),
        )
    )
    rows += _students(params, count)
    rows.append(Cost("report", "none"))
    return rows, count


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


def student_network(name: str, classes: int, channels: int, side: int) -> tuple[nn.Module, float]:
    with torch.device("meta"):
        network = build_student(name, classes=classes, channels=channels, side=side, seed=0).eval()
        return network, flops(network, torch.zeros(1, channels, side, side))


def _finetune(
    params: Params, name: str, loss: str, count: Sizes, dit_flops: float, weights: int, activations: float
) -> Cost:
    """Frozen weights need no gradient of their own: a pass forward and back costs twice a forward pass."""
    wanted = params.finetune
    if loss == "none":
        return Cost(f"finetune@{name}", "none")
    passes = 2.0
    if loss == "im":
        section = getattr(params, name)
        inner = section.inversion_steps if section.form == "paper" else 1
        passes += {"inversion": 2.0 * inner, "last_step": inner + 1.0, "denoiser": 1.0}[section.grad_through]
    steps = epochs_to_steps(wanted.epochs, images=count.train, batch_size=wanted.batch_size)
    batch = min(wanted.batch_size, count.train)
    kept = activations * (0.1 if wanted.gradient_checkpointing else passes / 2)
    memory = BASE_MEMORY + 4 * weights + batch / wanted.accumulate * kept
    trainable = 0.01 * weights
    return Cost(
        f"finetune@{name}",
        "dit_train",
        round(steps * passes / 2),
        steps * batch * passes * dit_flops,
        steps * batch,
        memory,
        4 * trainable,
    )


def _students(params: Params, count: Sizes) -> list[Cost]:
    """All cells of one student together, and the upper bound."""
    grid, protocol = params.eval, params.protocols[params.eval.protocol].model_dump()
    rows = []
    for student in grid.students:
        _, forward = student_network(student, count.classes, params.data.channels, grid.side or params.data.side)
        tested = count.test if grid.split == "test" else count.validation

        def run(images: int, ipc: int, forward: float = forward, tested: int = tested) -> tuple[int, float]:
            plan = protocols.plan(ipc=ipc, classes=count.classes, images=images, **protocol)
            shown = plan.total_steps * min(plan.batch_size, images)
            return plan.total_steps, forward * (3.0 * shown + len(plan.evaluation_steps) * tested)

        cells = [run(ipc * count.classes, ipc) for ipc in grid.ipc for _ in grid.methods]
        runs = grid.draws * grid.seeds
        rows.append(
            Cost(
                f"students ({student})",
                "student_train",
                runs * sum(c for c, _ in cells),
                runs * sum(f for _, f in cells),
                processes=len(cells),
            )
        )
        steps, work = run(count.train, count.train // count.classes)
        rows.append(Cost(f"full_data ({student})", "student_train", grid.seeds * steps, grid.seeds * work))
    return rows
