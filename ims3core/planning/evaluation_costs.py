"""What the stages from features to the report cost: classifiers, selections, refinements, students, measures."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from ims3core.planning import memory
from ims3core.planning.counting import NetworkCosts
from ims3core.planning.facts import START_UP, TEACHER_BATCH, Cost, Facts
from ims3core.planning.image_costs import student_costs, vae_slice
from ims3core.students import cell
from ims3core.students.plans import OptimiserSpec, Plan

if TYPE_CHECKING:
    from ims3core.pipeline.graph import Node

DRAWING = 15.0  # seconds that the report takes for its figures (measured on the digits)


class EvaluationCosts(Facts):
    """A method per stage that measures, chooses or scores images."""

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
        batch = min(section.batch_size, self.size.train)
        pays = self._compiled(plan, section.network, self.params.data.side)
        work = {"compiled" if pays else "train": network.flops * (3 * plan.trained_images + self.size.validation)}
        held = memory.TORCH + memory.VIEWS + self.real_bytes + memory.trained(network, batch, optimiser=1)
        held += self.compiler(pays)
        return Cost(node.stage, work, section.steps, self.size.train, held, 4 * network.weights)

    def _features(self, node: Node) -> Cost:
        batch, embed = self.params.features.batch_size, self.networks.embed
        shards = [self.size.train] if self.params.pool(node.row).source.indexed else self.shards(node.row)
        images = sum(shards)
        held = memory.asked(embed, min(batch, max(shards))) + images * (self.pixels + 4.0 * self.networks.dim)
        return Cost(
            node.stage, {"embed": images * embed.flops}, sum(-(-count // batch) for count in shards), images,
            memory.TORCH + held, 4.0 * images * self.networks.dim,
        )  # fmt: skip

    def _centroids(self, node: Node) -> Cost:
        row = self.params.centroids[node.row]
        return Cost(node.stage, images=min(self.pool_size(row.pool), self.size.classes * row.real_per_class))

    def _select(self, node: Node) -> Cost:
        """Those that ask the teacher ask it of every candidate."""
        selection, pool, grid = self.params.selection(node.row), self.params.methods[node.row].pool, self.params.eval
        chosen, images, sets = self.set_images(), self.pool_size(pool), grid.draws * self.size.classes
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
        networks = partial(self._refining, refinement.network_options)
        work: dict[str, float] = {}
        for name, count in refinement.passes(sets, classes).items():
            kind, network = networks(name)
            work[kind] = work.get(kind, 0.0) + count * network.flops
        held = 0.0
        for ipc in grid.ipc:
            parts = self._in_slices(refinement.in_flight(ipc, classes, self.params.data.side))
            held = max(held, sum(memory.moved(networks(name)[1], *images) for name, images in parts.items()))
        base = memory.TORCH + (memory.DIFFUSERS if "generator" in refinement.needs() else 0.0) + self.real_bytes
        base += memory.VIEWS + self.compiler(True)
        images = self.set_images()
        return Cost(node.stage, work, None, images, base + held, images * self.pixels)

    def _in_slices(self, parts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Images that go through networks at once where gradients reach latents: a slice, however many a class has."""
        from ims3core.axes.refinements.distribution_matching import MOVED, PIXELS

        if not parts.get("decoder", (0, 0))[0]:
            return parts
        side = self.params.data.side
        moved, compared = vae_slice(self.params, MOVED), max(1, PIXELS // side**2)
        return {name: (min(through, moved), min(forward, compared)) for name, (through, forward) in parts.items()}

    def _refining(self, options: dict[str, int], name: str) -> tuple[str, NetworkCosts]:
        """The kind of work, and the costs, of a network that a refinement names."""
        known = {"generator": ("dit_train", self.networks.dit), "decoder": ("vae_train", self.networks.decode),
                 "teacher": ("train", self.networks.teacher)}  # fmt: skip
        data, taken = self.params.data, tuple(options.items())
        return known.get(name) or (
            "train",
            student_costs(name, self.size.classes, data.channels, data.side, self.precision, options=taken),
        )

    def _labels(self, node: Node) -> Cost:
        teacher = self.params.protocols[node.row].labels == "teacher"
        return Cost(node.stage, memory=memory.PYTHON, disk=4 * self.networks.teacher.weights * teacher)

    def _students(self, node: Node) -> Cost:
        row, ipc, student, protocol = node.arguments
        tiles = self.params.refinement(row).tiles if row in self.params.refinements else 1
        images = int(ipc) * self.size.classes * tiles
        return self._cell(node, student, protocol, images, int(ipc), self.params.eval.draws)

    def _full_data(self, node: Node) -> Cost:
        student, protocol = node.arguments
        return self._cell(node, student, protocol, self.size.train, self.size.train // self.size.classes, 1)

    def _cell(self, node: Node, student: str, protocol: str, images: int, ipc: int, sets: int) -> Cost:
        """All students of one cell: ``sets`` of ``images`` images, every one with every seed."""
        params, size, rules, side = self.params, self.size, self.params.protocols[protocol], self._side(protocol)
        if node.stage == "full_data":
            rules = rules.on_all_data
        name, options = params.network(student), tuple(params.network_options(student).items())
        network = student_costs(
            name, size.classes, params.data.channels, side, self.precision, options=options, norm=rules.norm
        )
        plan, runs = rules.plan(name, ipc=ipc, classes=size.classes, images=images), sets * params.eval.seeds
        tested, trained = size.test if params.eval.split == "test" else size.validation, plan.trained_images
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
        pays = self._compiled(plan, name, side)
        base = memory.TORCH + memory.VIEWS + self.compiler(pays)
        kind = ("compiled" if pays else "train") if alone else ("compiled_students" if pays else "students")
        work = {kind: runs * forward}
        return Cost(node.stage, work, runs * plan.total_steps, images * sets, base + loaded + at_once * held)

    def _compiled(self, plan: Plan, network: str, side: int) -> bool:
        """Whether a classifier is compiled for this training."""
        return self.params.compute.compile and cell.compiling_pays(plan, network, side=side, device=self._device)

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

    def _coverage(self, node: Node) -> Cost:
        """Every pool and set, and held-out images, against the real images; sets go through encoder and teacher."""
        grid, size, dim = self.params.eval, self.size, self.networks.dim
        real, k = min(size.train, self.params.coverage.real_images), grid.draws
        pools = [name for name in self.params.pools if not self.params.pool(name).source.indexed]
        parts = [count for name in pools for count in self.pool_parts(name)]
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

    def _report(self, node: Node) -> Cost:
        return Cost(node.stage, memory=memory.TORCH + memory.FIGURES, seconds=START_UP + DRAWING)
