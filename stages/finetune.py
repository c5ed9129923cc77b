"""finetune: the generator adapted to the real latents, by Inversion-Matching or another loss (paper Algorithm 1).

A row that trains nothing loads no torch: what trains is imported where it is used.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.axes.adaptations import Adaptation
from ims3core.base import files
from ims3core.base.seeds import derive_seed
from ims3core.pipeline import progress
from ims3core.pipeline.stage import Stage, Unit

if TYPE_CHECKING:
    from ims3core.diffusion import training
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.latents import Latents

log = logging.getLogger(__name__)
CURVE = "curve.json"


class Finetune(Stage):
    """Writes data/adapted/<row>: the delta of fine-tuned weights and the loss curve; nothing to train for ``none``."""

    name = "finetune"
    artifact = "adapted"
    sharing = "steps"
    silent = True

    @cached_property
    def adaptation(self) -> Adaptation:
        """The row's entry."""
        return self.params.adaptation(self.node.row)

    @property
    def phase_size(self) -> int | None:
        """So many classes are fine-tuned at a time; None: all together."""
        return self.params.adaptations[self.node.row].phase if self.adaptation.trains else None

    def computes(self) -> bool:
        """Where there is something to train."""
        return self.adaptation.trains

    def unread(self) -> list[str]:
        """Without anything to train nothing is opened."""
        return [] if self.computes() else ["data/generator", "data/latents"]

    @cached_property
    def latents(self) -> Latents:
        """Of the real training images."""
        from ims3core.diffusion import latents

        return latents.read(self.input("data/latents"))

    def units(self) -> list[Unit]:
        """One fine-tuning on all classes, or one for each phase of classes, each from the generator."""
        if not self.adaptation.trains:
            return []
        if self.phase_size is None:
            return [Unit("all")]
        from ims3core.diffusion.generator import phases

        numbers = phases(self.latents.label, self.phase_size).unique().tolist()
        return [Unit(f"phase-{number:04d}", number) for number in numbers]

    def make(self, unit: Unit, path: Path) -> None:
        """The weights and the curve of one fine-tuning, from its checkpoint on; the main process writes."""
        from ims3core.diffusion import difffit

        begun = self.workspace.path / f"{unit.name}-begun"
        state = self._train(unit.task, begun)
        if self.processes.is_main:
            last = {name: weight.detach() for name, weight in state.weights.items()}
            difffit.write_delta(path / difffit.DELTA, state.ema if self.params.ema.use_for_sampling else last)
            # Not files.write_json, which sorts: the order of the columns must survive.
            files.write_bytes(path / CURVE, json.dumps(state.curve).encode())
            shutil.rmtree(begun, ignore_errors=True)

    def _train(self, phase: int | None, begun: Path) -> training.State:
        """One fine-tuning on the classes of a phase, or on all."""
        from ims3core.base import compute
        from ims3core.diffusion import checkpoints, difffit, latents, training
        from ims3core.diffusion.generator import phases, read_schedule

        settings, machine, seed = self.params.finetune, self.machine, self.params.seed
        cached = self.latents
        if phase is not None:
            cached = latents.subset(cached, phases(cached.label, self.phase_size) == phase)
        network = self._network()
        weights = difffit.freeze_all_but_difffit(network)
        # Frozen weights need no float32 copy; the trainable ones keep it under autocast.
        difffit.cast_frozen(network, machine.dtype)
        steps = training.epochs_to_steps(settings.epochs, images=len(cached.label), batch_size=settings.batch_size)
        machine.for_training(network, parts=network.compiled_parts, pays=steps >= compute.COMPILING_PAYS)
        state = training.start(weights, lr=settings.lr, weight_decay=settings.weight_decay)
        checkpoints.load_checkpoint(begun, state)
        label = f"fine-tuning {self.node.row}" + ("" if phase is None else f", phase {phase}")
        count = sum(p.numel() for p in weights.values())
        log.info("%s: %d trainable weights on %s, step %d of %d", label, count, machine, state.step, steps)
        plan = training.TrainingPlan(
            steps=steps, batch_size=settings.batch_size, label_dropout=settings.label_dropout,
            learning_rate=lambda step: settings.lr, ema_decay=lambda step: self.params.ema.decay,
            seed=derive_seed(seed, "finetune", *([] if phase is None else [phase])),
            grad_norm_every=settings.grad_norm_every, accumulate=settings.accumulate,
        )  # fmt: skip
        objective = self.adaptation.objective(variational=settings.variational)
        schedule = read_schedule(self.input("data/generator"))
        states = training.train(network, state, schedule, cached, objective, plan, machine)
        for current in progress.track(states, label=label, total=steps, done=state.step):
            if self.processes.is_main:
                checkpoints.checkpoint_every(begun, settings.checkpoint_every, current)
        return state

    def _network(self) -> DiT:
        """The generator's transformer with DiffFit scales."""
        from ims3core.diffusion import difffit
        from ims3core.diffusion.dit_layout import read_transformer

        files.read_manifest(self.input("data/generator"), "generator")
        network = read_transformer(self.input("data/generator/transformer")).float()
        difffit.add_scales(network, self.params.finetune.gamma_fraction)
        network.checkpoint_blocks = self.params.finetune.gradient_checkpointing
        return network

    def assemble(self, units: list[Unit]) -> dict[str, Any]:
        """The weights of all phases, and one curve."""
        facts: dict[str, Any] = {"loss": self.params.adaptations[self.node.row].type}
        if units:
            self._join(units)
            facts["precision"] = self.machine.precision
        return facts | ({} if self.phase_size is None else {"phase": self.phase_size})

    def _join(self, units: list[Unit]) -> None:
        """Weights and curve into the output."""
        from ims3core.diffusion import checkpoints, difffit
        from ims3core.diffusion.generator import delta_name

        curve: list[dict[str, float]] = []
        for unit in units:
            self.workspace.link(f"{unit.name}/{difffit.DELTA}", delta_name(unit.task))
            done = len(curve)
            rows = files.read_json(self.unit_path(unit) / CURVE, checkpoints.Curve)
            curve += [row | {"step": done + row["step"]} for row in rows]
        checkpoints.write_curve(self.workspace.output / "curve.csv", curve)
