"""What the plan of every stage is counted from: sizes of the data, the networks, pools and sets; a row of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ims3core.planning import memory
from ims3core.planning.counting import NetworkCosts
from ims3core.planning.image_costs import networks, precision_of
from ims3core.planning.sizes import DatasetSize, generator_config, with_generator

if TYPE_CHECKING:
    from ims3core.axes.sources import PoolSpec
    from ims3core.params import Params

START_UP = 4.0  # seconds of a process before it does anything: interpreter, torch, data (measured on 2 cores)
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


class Facts:
    """The parameters of a run with the size of its data set and the costs of an image."""

    def __init__(self, params: Params, size: DatasetSize) -> None:
        self.generates, params = params.generator.source != "none", with_generator(params)
        self.params, self.size = params, size
        self.config = generator_config(params, self.size.classes)
        self.networks = networks(params, self.config, self.size.classes)
        self.pixels = params.data.channels * params.data.side**2
        self.precision = precision_of(params)

    @property
    def latent(self) -> int:
        """Values of a latent."""
        return self.config.channels * self.config.side**2

    @property
    def real_bytes(self) -> float:
        """Memory of the real training images; those that stay in their files are decoded batch by batch."""
        return self.size.train * self.pixels if self.params.data.storage == "pixels" else 0.0

    def compiler(self, pays: bool) -> float:
        """Memory of compiling networks, where that pays."""
        return memory.COMPILER * (pays and self.params.compute.compile)

    @property
    def vae(self) -> tuple[NetworkCosts, NetworkCosts]:
        return self.networks.encode, self.networks.decode

    def phases(self, adaptation: str) -> int:
        """How many times the generator is fine-tuned, on some of the classes each."""
        size = self.params.adaptations[adaptation].phase
        return -(-self.size.classes // size) if size else 1

    def pool_spec(self, name: str) -> PoolSpec:
        """What a row of ``pools`` asks of its source, with its blocks of classes."""
        row, classes = self.params.pools[name], self.size.classes
        size = self.params.adaptations[row.adaptation].phase
        starts = range(0, classes, size) if size else ()
        blocks = tuple(tuple(range(first, min(first + (size or 0), classes))) for first in starts)
        return self.params.pool_spec(name, classes=classes, blocks=blocks)

    def shards(self, name: str) -> list[int]:
        """The sizes of all shards of a pool."""
        spec, sizes = self.pool_spec(name), []
        for ipc in spec.ipcs:
            for block in spec.blocks or (range(spec.classes),):
                whole, rest = divmod(spec.count(ipc) * len(block), spec.batch_size)
                sizes += ([spec.batch_size] * whole + [rest] * (rest > 0)) * spec.draws
        return sizes

    def pool_size(self, name: str) -> int:
        """Images of a pool."""
        return self.size.train if self.params.pool(name).source.indexed else sum(self.shards(name))

    def set_images(self) -> int:
        """Images of all sets of a row together."""
        grid = self.params.eval
        return sum(grid.ipc) * self.size.classes * grid.draws

    def pool_parts(self, name: str) -> list[int]:
        """Images of every draw and IPC of a pool."""
        spec = self.pool_spec(name)
        return [spec.count(ipc) * spec.classes for ipc in spec.ipcs for _ in range(spec.draws)]
