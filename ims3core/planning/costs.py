"""What every stage will cost: steps, FLOPs, images, memory and disk; loads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core.axes.guides.statistics import BATCH_VALUES
from ims3core.base import compute
from ims3core.diffusion.training import epochs_to_steps
from ims3core.params import sections
from ims3core.pipeline.graph import Graph, Node
from ims3core.planning import memory
from ims3core.planning.image_costs import (
    NetworkCosts,
    networks,
    number_bytes,
    precision_of,
    student_costs,
    vae_slice,
)
from ims3core.planning.sizes import DatasetSize, dataset_size, generator_config, with_generator
from ims3core.students import cell
from ims3core.students.plans import OptimiserSpec, Plan

if TYPE_CHECKING:
    from ims3core.axes.sources import PoolSpec
    from ims3core.params import Params

INDEX_ROW = 120  # bytes of an image in data/real where files stay where they are
START_UP = 4.0  # seconds of a process before it does anything: interpreter, torch, data (measured on 2 cores)
DRAWING = 15.0  # seconds that the report takes for its figures (measured on the digits)
SCALED_ON = 10_000  # images whose latents decide the VAE's scaling factor
TEACHER_BATCH = 256


@dataclass(frozen=True)
class Cost:
    """One row of the plan, for one stage of dvc.yaml and one row of params.yaml.

    Attributes:
        stage: its address.
        work: FLOPs by the kind whose rate turns them into seconds; of ``decode`` it is images.
        calls: steps of an optimiser; where nothing is trained, calls of a network. None: nobody counts them.
        images: that it makes or looks at.
        memory: bytes of the process at most.
        seconds: that do not depend on the amount of work.
    """

    stage: str
    work: Mapping[str, float] = field(default_factory=dict)
    calls: int | None = 0
    images: int = 0
    memory: float = memory.TORCH
    disk: float = 0.0
    seconds: float = START_UP

    @property
    def flops(self) -> float:
        """FLOPs of all kinds."""
        return sum(work for kind, work in self.work.items() if kind not in ("decode", "distance"))


def costs(params: Params, root: Path) -> tuple[list[Cost], DatasetSize]:
    """The plan: one row per stage of the graph, in its order."""
    planner = _Planner(params, root)
    return [planner.cost(node) for node in Graph(params.tree).nodes], planner.size


class _Planner:
    """The parameters of a run with the size of its data set and the costs of an image; a method per stage."""

    def __init__(self, params: Params, root: Path) -> None:
        self.generates, params = params.generator.source != "none", with_generator(params)
        self.params, self.size = params, dataset_size(params, root)
        self.config = generator_config(params, self.size.classes)
        self.networks = networks(params, self.config, self.size.classes)
        self.pixels = params.data.channels * params.data.side**2
        self.precision = precision_of(params)

    def cost(self, node: Node) -> Cost:
        """The costs of one stage."""
        row: Cost = getattr(self, f"_{node.stage}")(node)
        return replace(row, stage=node.address)

    @property
    def latent(self) -> int:
        """Values of a latent."""
        return self.config.channels * self.config.side**2

    @property
    def real_bytes(self) -> float:
        """Memory of the real training images; those that stay in their files are decoded batch by batch."""
        return self.size.train * self.pixels if self.params.data.storage == "pixels" else 0.0

    def _prepare(self, node: Node) -> Cost:
        count = self.size.train + self.size.validation + self.size.test
        stored = self.pixels if self.params.data.storage == "pixels" else INDEX_ROW
        return Cost(
            node.stage, {"decode": count}, images=count, memory=memory.TORCH + memory.READERS, disk=count * stored
        )

    def _generator(self, node: Node) -> Cost:
        if not self.generates:
            return Cost(node.stage, memory=memory.TORCH)
        section, dit, encode, decode = self.params.generator, self.networks.dit, *self._vae
        weights, disk = encode.weights + decode.weights, 4.0 * (dit.weights + encode.weights + decode.weights)
        base = memory.TORCH + memory.DIFFUSERS
        if not isinstance(section, sections.TrainedGenerator):
            return Cost(node.stage, memory=base + 8 * dit.weights + 4 * weights, disk=disk)
        vae, train = section.vae, self.size.train
        images, vae_images = section.steps * min(section.batch_size, train), vae.steps * min(vae.batch_size, train)
        work = {
            "dit_train": 3 * images * dit.flops, "vae_train": 3 * vae_images * (encode.flops + decode.flops),
            "vae": (train + min(train, SCALED_ON)) * encode.flops,
        }  # fmt: skip
        held = memory.trained(dit, section.batch_size, optimiser=3)
        vae_held = max(
            memory.trained(encode, vae.batch_size, optimiser=3) + memory.trained(decode, vae.batch_size, optimiser=3),
            memory.asked(encode, 256),
        )
        base += self._compiler(section.steps >= compute.COMPILING_PAYS)
        return Cost(
            node.stage, work, section.steps + vae.steps, train, base + self.real_bytes + max(held, vae_held), disk
        )

    def _compiler(self, pays: bool) -> float:
        """Memory of compiling networks, where that pays."""
        return memory.COMPILER * (pays and self.params.compute.compile)

    @property
    def _vae(self) -> tuple[NetworkCosts, NetworkCosts]:
        return self.networks.encode, self.networks.decode

    def _encoder(self, node: Node) -> Cost:
        section, embed = self.params.encoder, self.networks.embed
        return self._classifier(node, section, embed) if section.source == "train" else self._fetched(node, embed)

    def _teacher(self, node: Node) -> Cost:
        section, teacher = self.params.teacher, self.networks.teacher
        trained = section.source == "train"
        row = self._classifier(node, section, teacher) if trained else self._fetched(node, teacher)
        scored, calls = self.size.validation * teacher.flops, -(-self.size.validation // TEACHER_BATCH)
        work = {**row.work, "embed": scored}
        held = max(row.memory, memory.TORCH + memory.asked(teacher, min(TEACHER_BATCH, self.size.validation)))
        return replace(row, work=work, calls=row.calls if trained else calls, memory=held)

    def _fetched(self, node: Node, network: NetworkCosts) -> Cost:
        return Cost(node.stage, memory=memory.TORCH + 8 * network.weights, disk=4 * network.weights)

    def _classifier(self, node: Node, section: Any, network: NetworkCosts) -> Cost:
        """A classifier that is trained on the real training images, and scored once."""
        plan = Plan(self.size.train, section.batch_size, OptimiserSpec(section.lr), steps=section.steps)
        work = network.flops * (3 * trained_images(plan) + self.size.validation)
        batch = min(section.batch_size, self.size.train)
        held = memory.TORCH + memory.VIEWS + self.real_bytes + memory.trained(network, batch, optimiser=1)
        return Cost(node.stage, {"train": work}, section.steps, self.size.train, held, 4 * network.weights)

    def _latents(self, node: Node) -> Cost:
        if not self.generates:
            return Cost(node.stage, memory=memory.TORCH)
        section, train = self.params.latents, self.size.train
        images, batches = train * (1 + section.flip), (1 + section.flip) * -(-train // section.batch_size)
        encode, disk = self.networks.encode, 2 * 4.0 * train * (1 + section.flip) * self.latent
        held = memory.asked(encode, min(section.batch_size, train)) + 4 * self.networks.decode.weights
        return Cost(
            node.stage, {"vae": images * encode.flops}, batches, images,
            memory.TORCH + memory.DIFFUSERS + self.real_bytes + held, disk,
        )  # fmt: skip

    def _phases(self, adaptation: str) -> int:
        """How many times the generator is fine-tuned, on some of the classes each."""
        size = self.params.adaptations[adaptation].phase
        return -(-self.size.classes // size) if size else 1

    def _finetune(self, node: Node) -> Cost:
        """Frozen weights need no gradient of their own: a pass forward and back costs twice a forward pass."""
        section, adaptation, dit = self.params.finetune, self.params.adaptation(node.row), self.networks.dit
        if not adaptation.trains:
            return Cost(node.stage)
        phases, passes = self._phases(node.row), adaptation.passes()
        images = self.size.train // phases
        steps, batch = epochs_to_steps(section.epochs, images=images, batch_size=section.batch_size), section.batch_size
        batch = min(batch, images)
        logged = -(-steps // section.grad_norm_every) if section.grad_norm_every else 0
        terms = 1 + section.variational + (passes > 2)  # the gradient of each is a pass back of its own
        work = phases * batch * dit.flops * (steps * passes + logged * terms)
        held = batch / section.accumulate * passes / 2 * dit.through
        held += (2 + number_bytes(self.params)) * dit.weights + 4 * 4 * memory.DIFFFIT_SHARE * dit.weights
        disk = 4 * memory.DIFFFIT_SHARE * dit.weights * phases
        return Cost(
            node.stage, {"dit_train": work}, phases * steps, phases * steps * batch,
            memory.TORCH + memory.DIFFUSERS + held, disk,
        )  # fmt: skip

    def _guides(self, node: Node) -> Cost:
        """What a guide prepares once per class."""
        guide, size = self.params.guide(node.row), self.size
        if guide.provides == "nothing":
            return Cost(node.stage)
        of_class, dit = size.train // size.classes, self.networks.dit
        passes = guide.network_calls(of_class) * size.classes
        if not passes:
            return Cost(node.stage, images=size.train, memory=memory.TORCH + 4.0 * size.train * self.latent)
        batch = max(1, BATCH_VALUES // self.latent)
        calls = size.classes * -(-of_class // batch) * guide.network_calls(1)
        held = memory.asked(dit, min(batch, of_class), number_bytes(self.params))
        return Cost(
            node.stage, {"dit_sample": passes * dit.flops}, calls, size.train, memory.TORCH + memory.DIFFUSERS + held
        )

    def _pool_spec(self, name: str) -> PoolSpec:
        """What a row of ``pools`` asks of its source, with its blocks of classes."""
        row, classes = self.params.pools[name], self.size.classes
        size = self.params.adaptations[row.adaptation].phase
        starts = range(0, classes, size) if size else ()
        blocks = tuple(tuple(range(first, min(first + (size or 0), classes))) for first in starts)
        return self.params.pool_spec(name, classes=classes, blocks=blocks)

    def _shards(self, name: str) -> list[int]:
        """The sizes of all shards of a pool."""
        spec, sizes = self._pool_spec(name), []
        for ipc in spec.ipcs:
            for block in spec.blocks or (range(spec.classes),):
                whole, rest = divmod(spec.count(ipc) * len(block), spec.batch_size)
                sizes += ([spec.batch_size] * whole + [rest] * (rest > 0)) * spec.draws
        return sizes

    def _candidates(self, node: Node) -> Cost:
        source, dit, decode = self.params.pool(node.row).source, self.networks.dit, self.networks.decode
        if source.indexed:
            return Cost(node.stage, images=self.size.train)
        spec, shards = self._pool_spec(node.row), self._shards(node.row)
        images, calls = sum(shards), source.network_calls(spec)
        disk = images * (self.pixels + 4.0 * self.latent * source.sampled)
        if not calls:
            held = memory.TORCH + self.real_bytes + 8 * spec.largest_shard * self.pixels
            return Cost(node.stage, {"decode": images}, images=images, memory=held, disk=disk)
        sampled = len(shards) * spec.largest_shard if spec.compiled else images  # the last of a draw is padded
        work = {"dit_sample": sampled * calls * dit.flops, "vae": images * decode.flops}
        held = memory.asked(dit, spec.largest_shard, number_bytes(self.params))
        held += memory.asked(decode, spec.largest_shard) + 4 * self.networks.encode.weights
        return Cost(
            node.stage, work, len(shards) * (calls + 1), images, memory.TORCH + memory.DIFFUSERS + held, disk
        )  # fmt: skip

    def _features(self, node: Node) -> Cost:
        batch, embed = self.params.features.batch_size, self.networks.embed
        shards = [self.size.train] if self.params.pool(node.row).source.indexed else self._shards(node.row)
        images = sum(shards)
        held = memory.asked(embed, min(batch, max(shards))) + images * (self.pixels + 4.0 * self.networks.dim)
        return Cost(
            node.stage, {"embed": images * embed.flops}, sum(-(-count // batch) for count in shards), images,
            memory.TORCH + held, 4.0 * images * self.networks.dim,
        )  # fmt: skip

    def _centroids(self, node: Node) -> Cost:
        row = self.params.centroids[node.row]
        return Cost(node.stage, images=min(self._pool_size(row.pool), self.size.classes * row.real_per_class))

    def _pool_size(self, name: str) -> int:
        """Images of a pool."""
        return self.size.train if self.params.pool(name).source.indexed else sum(self._shards(name))

    def _set_images(self) -> int:
        """Images of all sets of a row together."""
        grid = self.params.eval
        return sum(grid.ipc) * self.size.classes * grid.draws

    def _select(self, node: Node) -> Cost:
        """Those that ask the teacher ask it of every candidate."""
        selection, pool, grid = self.params.selection(node.row), self.params.methods[node.row].pool, self.params.eval
        chosen, images, sets = self._set_images(), self._pool_size(pool), grid.draws * self.size.classes
        indexed, teacher = self.params.pool(pool).source.indexed, self.networks.teacher
        of_class = self.size.train // self.size.classes if indexed else self.params.pool(pool).per_class
        seen = [min(selection.candidates_needed(ipc) or of_class, of_class) for ipc in grid.ipc]
        facts = {"real": self.size.train, "dim": self.networks.dim}
        own = grid.draws * sum(selection.flops(candidates=count * self.size.classes, **facts) for count in seen)
        row = Cost(
            node.stage, {"embed": own}, images=chosen, disk=chosen * self.pixels,
            memory=memory.TORCH + images * (self.pixels + 8.0 * self.networks.dim),
        )  # fmt: skip
        if not selection.needs_teacher:
            return row
        calls = sets * sum(-(-count // TEACHER_BATCH) for count in seen)
        held = row.memory + memory.asked(teacher, min(TEACHER_BATCH, max(seen)))
        return replace(row, work={"embed": own + sets * sum(seen) * teacher.flops}, calls=calls, memory=held)

    def _refine(self, node: Node) -> Cost:
        """What a refinement does to all sets of a row, and the images that its networks hold at once."""
        grid, classes, refinement = self.params.eval, self.size.classes, self.params.refinement(node.row)
        sets = [ipc for ipc in grid.ipc for _ in range(grid.draws)]
        work: dict[str, float] = {}
        for name, count in refinement.passes(sets, classes).items():
            kind, network = self._refining(name)
            work[kind] = work.get(kind, 0.0) + count * network.flops
        held = 0.0
        for ipc in grid.ipc:
            parts = self._in_slices(refinement.in_flight(ipc, classes, self.params.data.side))
            held = max(held, sum(memory.moved(self._refining(name)[1], *images) for name, images in parts.items()))
        base = memory.TORCH + (memory.DIFFUSERS if "generator" in refinement.needs() else 0.0) + self.real_bytes
        base += memory.VIEWS + self._compiler(True)
        images = self._set_images()
        return Cost(node.stage, work, None, images, base + held, images * self.pixels)

    def _in_slices(self, parts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Images that go through networks at once where gradients reach latents: a slice, however many a class has."""
        from ims3core.axes.refinements.distribution_matching import MOVED, PIXELS

        if not parts.get("decoder", (0, 0))[0]:
            return parts
        side = self.params.data.side
        moved, compared = vae_slice(self.params, MOVED), max(1, PIXELS // side**2)
        return {name: (min(through, moved), min(forward, compared)) for name, (through, forward) in parts.items()}

    def _refining(self, name: str) -> tuple[str, NetworkCosts]:
        """The kind of work, and the costs, of a network that a refinement names."""
        known = {"generator": ("dit_train", self.networks.dit), "decoder": ("vae_train", self.networks.decode),
                 "teacher": ("train", self.networks.teacher)}  # fmt: skip
        data = self.params.data
        return known.get(name) or (
            "train",
            student_costs(name, self.size.classes, data.channels, data.side, self.precision),
        )

    def _labels(self, node: Node) -> Cost:
        teacher = self.params.protocols[node.row].labels == "teacher"
        return Cost(node.stage, memory=memory.PYTHON, disk=4 * self.networks.teacher.weights * teacher)

    def _students(self, node: Node) -> Cost:
        _, ipc, student, protocol = node.arguments
        images = int(ipc) * self.size.classes
        return self._cell(node, student, protocol, images, int(ipc), self.params.eval.draws)

    def _full_data(self, node: Node) -> Cost:
        student, protocol = node.arguments
        return self._cell(node, student, protocol, self.size.train, self.size.train // self.size.classes, 1)

    def _cell(self, node: Node, student: str, protocol: str, images: int, ipc: int, sets: int) -> Cost:
        """All students of one cell: ``sets`` of ``images`` images, every one with every seed."""
        params, size, rules, side = self.params, self.size, self.params.protocols[protocol], self._side(protocol)
        name, options = params.network(student), tuple(params.network_options(student).items())
        network = student_costs(
            name, size.classes, params.data.channels, side, self.precision, options=options, norm=rules.norm
        )
        plan, runs = rules.plan(name, ipc=ipc, classes=size.classes, images=images), sets * params.eval.seeds
        tested, trained = size.test if params.eval.split == "test" else size.validation, trained_images(plan)
        forward = network.flops * (
            (3 + plan.batchnorm_warmup) * trained + len(plan.evaluation_steps) * tested
        )  # fmt: skip
        alone = not cell.runs_on_one_thread(name, side=side, device=self._device)
        batch, at_once = min(plan.batch_size, images), 1 if alone else min(self._threads, runs)
        held = memory.trained(network, batch, optimiser=1 if rules.optimiser == "sgd" else 2)
        if rules.labels == "teacher":
            forward += self.networks.teacher.flops * trained
            held += memory.asked(self.networks.teacher, batch)
        loaded = tested * self.pixels * (params.data.storage == "pixels") + images * self.pixels * sets
        pays = alone and plan.total_steps >= cell.COMPILING_PAYS and params.compute.compile
        base = memory.TORCH + memory.VIEWS + self._compiler(pays)
        work = {("compiled" if pays else "train") if alone else "students": runs * forward}
        return Cost(node.stage, work, runs * plan.total_steps, images * sets, base + loaded + at_once * held)

    def _side(self, protocol: str) -> int:
        """The image size that students look at."""
        return self.params.protocols[protocol].side or self.params.data.side

    @cached_property
    def _device(self) -> torch.device:
        cuda = self.params.compute.device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    @property
    def _threads(self) -> int:
        return self.params.compute.threads or torch.get_num_threads()

    def _diagnose(self, node: Node) -> Cost:
        passes, dit = self.params.diagnostic(node.row).passes(self.latent), self.networks.dit
        held = memory.TORCH + memory.DIFFUSERS + 4 * dit.weights + self.latent * dit.through
        return Cost(node.stage, {"dit_train": passes * dit.flops}, None, memory=held)

    def _coverage(self, node: Node) -> Cost:
        """Every pool and set, and held-out images, against the real images; sets go through encoder and teacher."""
        grid, size, dim = self.params.eval, self.size, self.networks.dim
        real, k = min(size.train, self.params.coverage.real_images), grid.draws
        pools = [name for name in self.params.pools if not self.params.pool(name).source.indexed]
        parts = [count for name in pools for count in self._pool_parts(name)]
        sets = [ipc * size.classes for ipc in grid.ipc for _ in range(k * len(grid.methods))]
        sets.append(min([size.validation, self.params.coverage.real_images, *parts]))
        pairs = float(real**2) + sum(count * real + (count**2 if count > 1 else 0) for count in (*parts, *sets))
        images, network = sum(sets), self.networks.embed.flops + self.networks.teacher.flops
        calls = 2 * sum(-(-count // TEACHER_BATCH) for count in sets)
        largest = max(memory.BLOCK, *parts, *sets)
        held = (
            memory.TORCH + 2 * 8.0 * real * largest + memory.asked(self.networks.embed, min(TEACHER_BATCH, max(sets)))
        )
        work = {"distance": 2 * dim * pairs, "embed": images * network}
        return Cost(node.stage, work, calls, images + sum(parts), held + 8.0 * real * dim)

    def _pool_parts(self, name: str) -> list[int]:
        """Images of every draw and IPC of a pool."""
        spec = self._pool_spec(name)
        return [spec.count(ipc) * spec.classes for ipc in spec.ipcs for _ in range(spec.draws)]

    def _report(self, node: Node) -> Cost:
        return Cost(node.stage, memory=memory.TORCH + memory.FIGURES, seconds=START_UP + DRAWING)


def trained_images(plan: Plan) -> int:
    """Images that a run is trained on, one by one: the last batch of an epoch is smaller."""
    epochs, rest = divmod(plan.total_steps, plan.steps_per_epoch)
    return epochs * plan.images + min(rest * plan.batch_size, plan.images)
