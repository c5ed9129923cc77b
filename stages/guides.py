"""guides: what a sampler will know of the real latents, prepared once per class."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core import data
from ims3core.axes.guides import Guide
from ims3core.base import files
from ims3core.pipeline.stage import Stage, Unit

if TYPE_CHECKING:
    from ims3core.diffusion.latents import Latents
    from ims3core.diffusion.sampling import Denoiser

AT_ONCE = 32  # latents in one call of a network that is compiled


class Guides(Stage):
    """Writes data/guides/<row>: tensors of every class; the folder is empty for ``none``."""

    name = "guides"
    artifact = "guide"
    sharing = "units"

    @cached_property
    def guide(self) -> Guide:
        """The row's entry."""
        return self.params.guide(self.node.row)

    def computes(self) -> bool:
        """Where there is something to prepare."""
        return self.guide.provides != "nothing"

    def unread(self) -> list[str]:
        """``none`` looks at nothing, and not every guide asks the adapted generator."""
        unread = [] if self.guide.needs_network else ["data/generator", "data/adapted/*"]
        return unread if self.computes() else [*unread, "data/latents", "data/real/classes.json"]

    @cached_property
    def classes(self) -> list[data.ClassRow]:
        """The class table."""
        return data.read_classes(self.input("data/real/classes.json"))

    @cached_property
    def latents(self) -> Latents:
        """Of the real training images."""
        from ims3core.diffusion import latents

        return latents.read(self.input("data/latents"))

    @cached_property
    def generator(self) -> AdaptedGenerator:
        """The row's adapted generator, opened with the first unit."""
        adapted = self.input(f"data/adapted/{self.params.guides[self.node.row].adaptation}")
        return AdaptedGenerator(self.input("data/generator"), adapted, self.classes, self.machine)

    def units(self) -> list[Unit]:
        """A class each."""
        if not self.computes():
            return []
        return [Unit(f"class-{c:04d}.safetensors", c) for c in range(len(self.classes))]

    def make(self, unit: Unit, path: Path) -> None:
        """What is kept of one class."""
        label = self.classes[unit.task].generator_label
        own = self.latents.mean[0][self.latents.label == label]
        denoiser = self.generator.of_class(unit.task) if self.guide.needs_network else None
        files.write_tensors(path, self.guide.prepare(own, denoiser, label))

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """All classes. Values and code that act only when a pool is sampled are facts too: the pool runs again."""
        for unit in units:
            self.workspace.link(unit.name, unit.name)
        return {**self.guide.facts, "code": self.node.code_digest} if units else self.guide.facts


class AdaptedGenerator:
    """The adapted generator as a denoiser, with the weights of the phase that a class belongs to."""

    def __init__(self, folder: Path, adapted: Path, classes: list[data.ClassRow], machine: Any) -> None:
        import torch

        from ims3core.diffusion import generator
        from ims3core.diffusion.sampling import Denoiser, in_equal_calls

        self.adapted = adapted
        files.read_manifest(folder, "generator")
        self.network, schedule = generator.read_adapted(folder, adapted), generator.read_schedule(folder)
        self.phase = generator.phase_of(torch.tensor([row.generator_label for row in classes]), adapted)
        null_label = self.network.config.classes
        with torch.inference_mode():
            call = machine.for_inference(self.network, parts=self.network.compiled_parts, constant=self.phase is None)
        if machine.compile:  # for one size of batch, and classes have any
            call = in_equal_calls(call, AT_ONCE)
        self.denoiser = Denoiser(call, schedule, null_label, machine.device, machine.dtype)

    def of_class(self, class_index: int) -> Denoiser:
        """The denoiser with the weights for a class."""
        if self.phase is not None:
            import torch

            from ims3core.diffusion import generator

            with torch.inference_mode():
                generator.load_phase(self.network, self.adapted, int(self.phase[class_index]))
        return self.denoiser
