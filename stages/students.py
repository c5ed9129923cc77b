"""students: networks trained on a distilled set and scored on held-out real images (paper 5.1, 5.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ims3core import data
from ims3core.base import files
from ims3core.data import distilled
from ims3core.pipeline import executors
from ims3core.pipeline.stage import Stage, Unit
from ims3core.students import cell

if TYPE_CHECKING:
    import torch

    from ims3core.students.settings import Protocol

log = logging.getLogger(__name__)


class Students(Stage):
    """Writes metrics/cells/<method>-<ipc>-<student>-<protocol>.json: every draw and seed of one cell of a table."""

    name = "students"
    amounts: ClassVar[tuple[str, ...]] = ("eval.draws", "eval.seeds")
    named: ClassVar[tuple[str, ...]] = ("data/distilled/*",)

    @property
    def place(self) -> dict[str, Any]:
        """Which cell it is."""
        method, ipc, *_ = self.node.arguments
        return {"method": method, "ipc": int(ipc)}

    @cached_property
    def folders(self) -> list[Path]:
        """The training sets, one per draw."""
        folder = self.input(f"data/distilled/{self.place['method']}/ipc-{self.place['ipc']}")
        return [folder / f"draw-{draw}" for draw in range(self.params.eval.draws)]

    @cached_property
    def sets(self) -> list[data.ImageSet]:
        """Their images."""
        return [distilled.read_formed_set(folder) for folder in self.folders]

    @cached_property
    def tiles(self) -> int:
        """How many images each one that is stored holds."""
        return distilled.read_set_manifest(self.folders[0]).factor ** 2

    @cached_property
    def held_out(self) -> data.ImageSet:
        """What students are scored on."""
        return data.read_split(self.input(f"data/real/{self.params.eval.split}"))

    @cached_property
    def names(self) -> list[str]:
        """Of the classes."""
        return [row.name for row in data.read_classes(self.input("data/real/classes.json"))]

    @cached_property
    def spec(self) -> cell.CellSpec:
        """How every student of the cell is trained and scored."""
        student, protocol = self.node.arguments[-2:]
        rules, network = self.rules(self.params.protocols[protocol]), self.params.network(student)
        return cell.CellSpec(
            student, network, side=rules.side or self.held_out.images.shape[-1], classes=len(self.names),
            statistics=data.read_statistics(self.input(f"data/real/{data.STATISTICS}")),
            protocol=rules, augment=self.params.augmentation(protocol), options=self.params.network_options(student),
            machine=self.machine, root_seed=self.params.seed, protocol_name=protocol,
            teacher=self._teacher(protocol) if rules.labels == "teacher" else None,
        )  # fmt: skip

    def rules(self, protocol: Protocol) -> Protocol:
        """The protocol as these students follow it."""
        return protocol

    def _teacher(self, protocol: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The teacher of a protocol, in the precision of its students; it looks at the side it was trained at."""
        from ims3core.classifiers.teacher import read_teacher

        folder = self.input(f"data/labels/{protocol}")
        files.read_manifest(folder, "teacher")
        teacher = read_teacher(folder).to(self.machine.device)
        side = self.held_out.images.shape[-1]
        if teacher.encoder.resize is None and self.params.protocols[protocol].side not in (None, side):
            teacher.encoder.resize = teacher.encoder.crop = side

        def logits(images: torch.Tensor) -> torch.Tensor:
            with self.machine.autocast():
                return teacher(images)

        return logits

    def units(self) -> list[Unit]:
        """One training each, named by its set."""
        digests = [files.manifest_digest(folder)[:16] for folder in self.folders]
        return [
            Unit(f"run-{draw}-{seed}-{digest}.json", (draw, seed))
            for draw, digest in enumerate(digests) for seed in range(self.params.eval.seeds)
        ]  # fmt: skip

    def threads(self) -> int:
        """Layers on small images gain little from more threads; a score then does not depend on their number."""
        import torch

        on_one = cell.runs_on_one_thread(self.spec.network, side=self.spec.side, device=self.machine.device)
        return torch.get_num_threads() if on_one else 1

    def make(self, unit: Unit, path: Path) -> None:
        """The record of one training."""
        draw, seed = unit.task

        def stop_if_cancelled(step: int) -> None:
            executors.stop_if_cancelled(self.stopped)

        record = self.spec.run(
            self.sets[draw], self.held_out, draw=draw, seed=seed, tiles=self.tiles, on_progress=stop_if_cancelled
        )  # fmt: skip
        files.write_json(path, record)

    def assemble(self, units: list[Unit]) -> None:
        """All records, and their confusion matrices added up."""
        runs, (student, protocol) = [files.read_json(self.unit_path(unit)) for unit in units], self.node.arguments[-2:]
        facts = {**self.place, "student": student, "protocol": protocol, "split": self.params.eval.split}
        facts |= {"draws": len(self.folders), "seeds": self.params.eval.seeds, "precision": self.machine.precision}
        files.write_json(self.output, cell.summarise(runs, self.names, **facts))
        mean = sum(run["last_top1"] for run in runs) / len(runs)
        log.info(
            "%s: %.2f %% on %s (mean of %d runs, last epoch)", self.output.stem, mean, self.params.eval.split, len(runs)
        )


class FullData(Students):
    """Writes metrics/full_data/<student>-<protocol>.json: the upper bound, trained on all real training images."""

    name = "full_data"
    amounts = ("eval.seeds",)
    named = ("data/real/train",)

    @property
    def place(self) -> dict[str, Any]:
        return {"method": "full", "ipc": "full"}

    def rules(self, protocol: Protocol) -> Protocol:
        return protocol.on_all_data

    @cached_property
    def folders(self) -> list[Path]:
        return [self.input("data/real/train")]

    @cached_property
    def sets(self) -> list[data.ImageSet]:
        return [data.read_split(self.input("data/real/train"))]

    @cached_property
    def tiles(self) -> int:
        return 1
