"""refine: the distilled sets of another row, optimised further."""

from __future__ import annotations

import logging
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core import data
from ims3core.axes.refinements import Refinement, Start
from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.data import distilled
from ims3core.data.formation import first_mosaics
from ims3core.errors import NumericsError
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit
from ims3core.students.plans import PoolNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import AutoencoderKL

    from ims3core.classifiers.teacher import Teacher
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule

log = logging.getLogger(__name__)


class Refine(Stage):
    """Writes data/distilled/<row> from data/distilled/<start>, and metrics/selection/<row>.json."""

    name = "refine"
    amounts = ("eval.ipc", "eval.draws")
    named = ("data/distilled/*",)
    sharing = "units"
    silent = True

    @cached_property
    def refinement(self) -> Refinement:
        """The row's entry."""
        return self.params.refinement(self.node.row)

    def unread(self) -> list[str]:
        """Teacher and generator are looked at by some refinements only."""
        return [f"data/{name}" for name in ("teacher", "generator") if name not in self.refinement.needs()]

    def units(self) -> list[Unit]:
        """The networks that all sets look through; then a set each, named by the one it starts from."""
        networks = self.refinement.shared_networks(list(self.params.eval.ipc))
        return [Unit(network.file, network) for network in networks] + self.sets

    @cached_property
    def sets(self) -> list[Unit]:
        """In the order of the grid."""
        folder = self.input(f"data/distilled/{self.params.refinements[self.node.row].start}")
        grid, units = self.params.eval, []
        for ipc in grid.ipc:
            for draw in range(grid.draws):
                start = folder / f"ipc-{ipc}" / f"draw-{draw}"
                units.append(Unit(f"ipc-{ipc}-draw-{draw}-{files.manifest_digest(start)[:16]}", (ipc, draw, start)))
        return units

    @cached_property
    def classes(self) -> list[data.ClassRow]:
        """The class table."""
        return data.read_classes(self.input("data/real/classes.json"))

    @cached_property
    def shared(self) -> dict[Any, Any]:
        """What the sets of a row have in common; the first one fills it."""
        return {}

    def make(self, unit: Unit, path: Path) -> None:
        """One network or set; where a set diverges, the one it started from is kept."""
        if isinstance(unit.task, PoolNetwork):
            label = f"{self.node.row}, network {unit.task.number + 1} of {len(self.units()) - len(self.sets)}"
            ipc, draw, folder = self.sets[0].task  # no more of a set is looked at than what all have in common
            start = self._start(ipc, draw, folder, label)
            files.write_tensors(path, self.refinement.train(start, unit.task))
            return
        ipc, draw, folder = unit.task
        label = f"{self.node.row} ipc {ipc} draw {draw}"
        try:
            images = self.refinement.refine(self._start(ipc, draw, folder, label))
        except NumericsError as error:
            raise NumericsError(f"refinements.{self.node.row}, {label}: {error}; {folder} is kept") from error
        names = [row.name for row in self.classes]
        factor = self.refinement.factor
        distilled.write_refined(path, folder, images, names, method=self.node.row, factor=factor)
        log.info("%s: done", label)

    def _start(self, ipc: int, draw: int, folder: Path, label: str) -> Start:
        """One drawn set and what a refinement may look at; teacher and generator are opened when asked for."""
        place, factor = self.root / "data/real", self.refinement.factor
        seed = derive_seed(self.params.seed, "refine", draw, ipc)
        chosen, latents, real = (
            distilled.read_set(folder),
            distilled.read_latents(folder),
            data.read_split(place / "train"),
        )
        if factor != distilled.read_set_manifest(folder).factor:
            chosen, latents = first_mosaics(chosen, real, factor, seed), None
        return Start(
            chosen=chosen, latents=latents, real=real, statistics=data.read_statistics(place / data.STATISTICS),
            augment=self.params.refining_augmentation(self.node.row), seed=seed, machine=self.machine,
            teacher=self._teacher, generator=self._generator, autoencoder=self._autoencoder,
            labels=torch.tensor([row.generator_label for row in self.classes]),
            names=tuple(row.name for row in self.classes), row_seed=derive_seed(self.params.seed, "refine"),
            shared=self.shared, kept=self._kept, progress=partial(progress.track, label=label),
        )  # fmt: skip

    def _kept(self, which: PoolNetwork, train: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The weights of a network, which a worker that comes too early trains, or waits for."""
        with self.workspace.making(which.file) as path:
            if path is not None:
                files.write_tensors(path, train())
        return files.read_tensors(self.workspace.path / which.file)

    def _teacher(self) -> Teacher:
        from ims3core.classifiers.teacher import read_teacher

        folder = self.input("data/teacher")
        files.read_manifest(folder, "teacher")
        return read_teacher(folder).to(self.machine.device)

    def _generator(self) -> tuple[DiT, Schedule, AutoencoderKL]:
        """Network, schedule and autoencoder."""
        from ims3core.diffusion import dit_layout
        from ims3core.diffusion.generator import read_schedule

        vae, folder = self._autoencoder(), self.input("data/generator")
        network = dit_layout.read_transformer(folder / "transformer").float().to(self.machine.device)
        return network.eval().requires_grad_(False), read_schedule(folder), vae

    def _autoencoder(self) -> AutoencoderKL:
        from ims3core.diffusion.autoencoder import read_autoencoder

        folder = self.input("data/generator")
        files.read_manifest(folder, "generator")
        return read_autoencoder(folder / "vae").to(self.machine.device)

    def assemble(self, units: list[Unit]) -> None:
        """All sets under ipc-<K>/draw-<d>."""
        for unit in self.sets:
            self.workspace.link(unit.name, f"ipc-{unit.task[0]}/draw-{unit.task[1]}")
        row, grid = self.params.refinements[self.node.row], self.params.eval
        cells = {str(ipc): [{"draw": d} for d in range(grid.draws)] for ipc in grid.ipc}
        files.write_json(
            self.root / f"metrics/selection/{self.node.row}.json",
            {"method": self.node.row, "pool": row.start, "selection": row.type, "deterministic": False, "cells": cells},
        )
