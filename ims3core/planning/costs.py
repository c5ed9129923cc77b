"""What every stage will cost: calls, FLOPs, images, memory and disk; loads no weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.data import pools
from ims3core.diffusion.dit import DitConfig
from ims3core.diffusion.training import epochs_to_steps
from ims3core.planning.units import Sizes, Units, dit_config, number_bytes, sizes, student_flops, units
from ims3core.students import protocols

if TYPE_CHECKING:
    from ims3core.params import Params

GIB = 2**30
BASE_MEMORY = 0.6 * GIB  # of a process that has imported torch


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
            memory = BASE_MEMORY + number_bytes(params) * unit.weights + unit.vae_bytes + wanted.batch_size * per_image
            work, disk = sampled * calls * unit.dit + images * unit.decode, images * (unit.pixels + 4.0 * unit.latent)
            network_calls = shards * calls
            candidates.append(Cost(f"candidates@{name}", "dit_sample", network_calls, work, images, memory, disk))
        batches, disk = -(-images // params.features.batch_size), 4.0 * images * unit.dim
        features.append(Cost(f"features@{name}", "student_eval", batches, images * unit.embed, images, disk=disk))
    return candidates + features


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
