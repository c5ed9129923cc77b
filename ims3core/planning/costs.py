"""What every stage will cost: calls, FLOPs, images, memory and disk; loads no weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.diffusion.training import epochs_to_steps
from ims3core.planning.image_costs import generator_config, image_costs, number_bytes, student_flops
from ims3core.planning.sizes import DatasetSize, dataset_size

if TYPE_CHECKING:
    from ims3core.params import Params

GIB = 2**30
BASE_MEMORY = 0.6 * GIB  # of a process that has imported torch
INDEX_ROW = 120  # bytes of an image in data/real where files stay where they are


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


def costs(params: Params, root: Path) -> tuple[list[Cost], DatasetSize]:
    """The plan: one row per DVC stage, in the order of the graph."""
    planner = _Planner(params, root)
    return planner.costs(), planner.size


class _Planner:
    """The parameters of a run with the size of its data set and the costs of an image."""

    def __init__(self, params: Params, root: Path) -> None:
        self.params, self.size = params, dataset_size(params, root)
        self.config = generator_config(params, self.size.classes)
        self.image = image_costs(params, self.config, self.size.classes)

    def costs(self) -> list[Cost]:
        """One row per DVC stage, in the order of the graph."""
        params, grid = self.params, self.params.eval
        count = self.size.train + self.size.validation + self.size.test
        chosen = sum(grid.ipc) * self.size.classes * grid.draws * len(params.methods)
        stored = self.image.pixels if params.data.storage == "pixels" else INDEX_ROW
        return [
            Cost("prepare", "decode", images=count, disk=count * stored),
            self._generator(), self._encoder(), self._latents(),
            *map(self._finetune, params.adaptations), *map(self._guide, params.guides),
            *map(self._candidates, params.pools), *map(self._features, params.pools),
            Cost("centroids", "none", processes=len(params.centroids)),
            Cost("select", "none", images=chosen, disk=chosen * self.image.pixels, processes=len(params.methods)),
            *itertools.chain.from_iterable(map(self._refine, params.refinements)),
            Cost("labels", "none", processes=len(grid.protocols)),
            *itertools.chain.from_iterable(itertools.starmap(
                self._students, itertools.product(grid.students, grid.protocols)
            )),
            Cost("report", "none"),
        ]  # fmt: skip

    def _generator(self) -> Cost:
        section, image = self.params.generator, self.image
        disk = 4 * image.weights + image.vae_bytes
        if section.source == "none":
            return Cost("generator", "none")
        if section.source != "train":
            return Cost("generator", "none", memory=BASE_MEMORY + 8 * image.weights, disk=disk)
        vae = section.vae
        work = section.steps * section.batch_size * image.dit
        work += vae.steps * vae.batch_size * (image.encode + image.decode)
        memory = BASE_MEMORY + 16 * image.weights + section.batch_size * image.activations
        return Cost("generator", "dit_train", section.steps + vae.steps, 3.0 * work, self.size.train, memory, disk)

    def _encoder(self) -> Cost:
        section = self.params.encoder
        steps, batch = (section.steps, section.batch_size) if section.source == "train" else (0, 0)
        work = 3.0 * steps * batch * self.image.embed
        return Cost("encoder", "student_train", steps, work, disk=self.image.encoder_bytes)

    def _latents(self) -> Cost:
        section, train = self.params.latents, self.size.train
        if self.params.generator.source == "none":
            return Cost("latents", "none")
        images = train * (1 + section.flip)
        calls = (1 + section.flip) * -(-train // section.batch_size)
        disk = 2 * 4.0 * images * self.image.latent
        return Cost("latents", "vae", calls, images * self.image.encode, train, disk=disk)

    def _finetune(self, name: str) -> Cost:
        """Frozen weights need no gradient of their own: a pass forward and back costs twice a forward pass."""
        section, adaptation, image = self.params.finetune, self.params.adaptation(name), self.image
        if not adaptation.trains:
            return Cost(f"finetune@{name}", "none")
        passes, train = adaptation.passes(), self.size.train
        steps = epochs_to_steps(section.epochs, images=train, batch_size=section.batch_size)
        batch = min(section.batch_size, train)
        activations = image.activations * (0.1 if section.gradient_checkpointing else passes / 2)
        memory = BASE_MEMORY + 4 * image.weights + batch / section.accumulate * activations
        work, disk = steps * batch * passes * image.dit, 4 * (0.01 * image.weights)
        return Cost(f"finetune@{name}", "dit_train", round(steps * passes / 2), work, steps * batch, memory, disk)

    def _guide(self, name: str) -> Cost:
        """What a guide prepares once per class."""
        guide, size = self.params.guide(name), self.size
        if guide.provides == "nothing":
            return Cost(f"guides@{name}", "none")
        calls = guide.network_calls(size.train // size.classes) * size.classes
        return Cost(f"guides@{name}", "dit_sample" if calls else "none", calls, calls * self.image.dit, size.train)

    def _pool_images(self, name: str) -> list[int]:
        """How many images each draw and IPC of a generated pool has."""
        spec = self.params.pool_spec(name, classes=self.size.classes)
        return [spec.count(ipc) * self.size.classes for ipc in spec.ipcs for _ in range(spec.draws)]

    def _candidates(self, name: str) -> Cost:
        source, image = self.params.pool(name).source, self.image
        if source.indexed:
            return Cost(f"candidates@{name}", "none", images=self.size.train)
        spec, counts = self.params.pool_spec(name, classes=self.size.classes), self._pool_images(name)
        images, shards = sum(counts), sum(-(-count // spec.batch_size) for count in counts)
        sampled = shards * spec.largest_shard if spec.compiled else images  # the last of a draw is padded
        calls = source.network_calls(spec)
        per_image = 2 * image.activations / self.config.depth + 16.0 * image.pixels * 4
        memory = BASE_MEMORY + number_bytes(self.params) * image.weights + image.vae_bytes + spec.batch_size * per_image
        work = sampled * calls * image.dit + images * image.decode
        disk = images * (image.pixels + 4.0 * image.latent)
        return Cost(f"candidates@{name}", "dit_sample", shards * calls, work, images, memory, disk)

    def _features(self, name: str) -> Cost:
        images = self.size.train if self.params.pool(name).source.indexed else sum(self._pool_images(name))
        batches, disk = -(-images // self.params.features.batch_size), 4.0 * images * self.image.dim
        return Cost(f"features@{name}", "student_eval", batches, images * self.image.embed, images, disk=disk)

    def _refine(self, name: str) -> list[Cost]:
        """What a refinement does to all sets of a row, a row for each network it asks."""
        grid, data, classes = self.params.eval, self.params.data, self.size.classes
        sets = [ipc for ipc in grid.ipc for _ in range(grid.draws)]
        forward = {
            "generator": ("dit_train", self.image.dit), "decoder": ("vae", self.image.decode),
            "teacher": ("student_train", self.image.embed),
        }  # fmt: skip
        rows: list[Cost] = []
        passes = self.params.refinement(name).passes(sets, classes)
        for network, count in (passes or {"teacher": 0.0}).items():
            if network not in forward:
                forward[network] = ("student_train", student_flops(network, classes, data.channels, data.side))
            kind, cost = forward[network]
            title = f"refine@{name}" if not rows else f"refine@{name} ({network})"
            images = sum(sets) * classes
            rows.append(Cost(title, kind, flops=count * cost, images=images, processes=0 if rows else 1))
        return rows

    def _students(self, student: str, protocol: str) -> list[Cost]:
        """All cells of one student and protocol together, and the upper bound."""
        grid, size = self.params.eval, self.size
        run = partial(self._run, student, protocol)
        cells = [run(ipc * size.classes, ipc) for ipc in grid.ipc for _ in grid.methods]
        runs, (calls, work) = grid.draws * grid.seeds, (sum(column) for column in zip(*cells, strict=True))
        title = student if len(grid.protocols) == 1 else f"{student}, {protocol}"
        steps, full = run(size.train, size.train // size.classes)
        return [
            Cost(f"students ({title})", "student_train", runs * calls, runs * work, processes=len(cells)),
            Cost(f"full_data ({title})", "student_train", grid.seeds * steps, grid.seeds * full),
        ]

    def _run(self, student: str, protocol: str, images: int, ipc: int) -> tuple[int, float]:
        """Steps and FLOPs of one student on ``images`` images."""
        params, size, rules = self.params, self.size, self.params.protocols[protocol]
        network, options = params.network(student), tuple(params.network_options(student).items())
        side = rules.side or params.data.side
        forward = student_flops(network, size.classes, params.data.channels, side, options)
        plan = rules.plan(network, ipc=ipc, classes=size.classes, images=images)
        tested = size.test if params.eval.split == "test" else size.validation
        trained = plan.total_steps * min(plan.batch_size, images)
        return plan.total_steps, forward * (3.0 * trained + len(plan.evaluation_steps) * tested)
