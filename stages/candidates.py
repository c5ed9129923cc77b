"""candidates: a pool of images to select from, generated or real (paper Algorithm 2); indexing those needs no torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.axes.sources import ImageMaker, PoolSpec
from ims3core.data.keys import CandidateKey, shard_name
from ims3core.diffusion.inputs import PoolInputs
from ims3core.pipeline.stage import Stage, Unit

if TYPE_CHECKING:
    from ims3core.data.pools import CandidateBatch


class Candidates(Stage):
    """Writes data/candidates/<row>: shards of images with seeds and latents, or an index of the real ones."""

    name = "candidates"
    amounts = ("eval.ipc", "eval.draws", "candidates.per_class", "pools.*.set.per_class")
    artifact = "pool"
    sharing = "units"

    @cached_property
    def pool(self) -> Any:
        """The row's entries."""
        return self.params.pool(self.node.row)

    def computes(self) -> bool:
        """Where images are made."""
        return not self.pool.source.indexed

    def unread(self) -> list[str]:
        """Only images that are drawn come from a generator, and only others from real images."""
        if self.pool.source.sampled:
            return ["data/real/train", "data/real/statistics.json"]
        return ["data/generator", "data/adapted/*", "data/guides/*"]

    @cached_property
    def inputs(self) -> PoolInputs:
        """The declared folders, opened when a source asks for them."""
        row, folder = self.pool.row, self.root / "data"
        adapted, guide = folder / "adapted" / row.adaptation, folder / "guides" / row.guide
        return PoolInputs(folder / "real", folder / "generator", adapted, guide)

    @cached_property
    def spec(self) -> PoolSpec:
        """What is asked of the source."""
        blocks = self.inputs.blocks if self.pool.source.sampled else ()
        return self.params.pool_spec(self.node.row, classes=len(self.inputs.classes), blocks=blocks)

    @cached_property
    def image_maker(self) -> ImageMaker:
        """The source's function from keys to images; networks are opened with the first shard."""
        make: ImageMaker = self.pool.source.build(self.inputs, self.spec, self.machine)
        return make

    def units(self) -> list[Unit]:
        """One shard each; none of the real images, which are there."""
        if not self.computes():
            return []
        return [Unit(shard_name(keys), keys) for keys in self.spec.shards()]

    def make(self, unit: Unit, path: Path) -> None:
        """A shard; what a smaller pool had of it is taken over, only new images are made."""
        from ims3core.data import pools

        parts, known = self._of_smaller_pool(unit.task)
        batch = pools.concatenated([*parts, self.image_maker(unit.task[known:])])
        pools.write_shard(path, batch, unit.task, [self.spec.seed(key) for key in unit.task])

    def _of_smaller_pool(self, keys: list[CandidateKey]) -> tuple[list[CandidateBatch], int]:
        """The images that an earlier, shorter shard holds, and their number."""
        for shorter in range(len(keys) - 1, 0, -1):
            if self.workspace.has(name := shard_name(keys[:shorter])):
                from ims3core.data import pools

                return [pools.read_shard(self.workspace.path / name)], shorter
        return [], 0

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """Shards in order, under plain names."""
        facts = {"source": self.pool.row.source}
        if not self.computes():
            return {**facts, "indexed": True, "images": self.inputs.train_images}
        for number, unit in enumerate(units):
            self.workspace.link(unit.name, f"shard-{number:05d}.safetensors")
        precision = {"precision": self.machine.precision} if self.pool.source.sampled else {}
        return {**facts, "indexed": False, "images": sum(len(unit.task) for unit in units), **precision}
