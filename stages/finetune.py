"""finetune: the generator adapted to the real latents, by Inversion-Matching or another loss (paper Algorithm 1)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import compute, files
from ims3core.base.seeds import derive_seed
from ims3core.diffusion import checkpoints, difffit, latents, training
from ims3core.diffusion.dit_layout import read_transformer
from ims3core.diffusion.generator import delta_name, phases, read_schedule
from ims3core.shell import code, progress, scratch

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.params.rows import Entry

log = logging.getLogger(__name__)


def run(params: Params, root: Path, row: str) -> None:
    """Writes data/adapted/<row>: the delta of fine-tuned weights and the loss curve; nothing to train for ``none``."""
    adaptation, wanted = params.adaptation(row), params.finetune
    trains = adaptation.name != "none"
    machine = compute.machine(**params.compute.model_dump())
    facts = [params.seed, adaptation.facts]
    if trains:
        facts += [wanted.model_dump(), params.ema.model_dump(), machine.precision]
    inputs = [root / "data/generator", root / "data/latents"]
    key = scratch.fingerprint(facts, inputs, code.digest("finetune", **params.adaptations[row].model_dump()))
    with scratch.workspace(root, f"finetune-{row}", key, log.warning, machine.team) as work:
        if work.finished_elsewhere:
            return
        size, made = params.adaptations[row].phase if trains else None, {}
        if trains:
            _train(params, root, adaptation, size, work, machine)
            made = {"precision": machine.precision}
        phase = {} if size is None else {"phase": size}
        work.publish(root / "data/adapted" / row, "adapted", loss=adaptation.name, **made, **phase)


def _train(
    params: Params, root: Path, adaptation: Entry, size: int | None, work: scratch.Workspace, machine: compute.Machine
) -> None:
    """Fine-tunes on all classes, or on ``size`` classes after ``size`` classes, each time from the generator."""
    cached = latents.read(root / "data/latents")
    files.read_manifest(root / "data/generator", "generator")
    phase, curves = phases(cached.label, size), []
    for number in phase.unique().tolist():
        own = cached if size is None else latents.subset(cached, phase == number)
        folder = work.path if size is None else work.path / f"phase-{number:04d}"
        state = _phase(params, root, adaptation, own, size and number, folder, machine)
        if machine.team.leads:
            product = state.ema if params.ema.use_for_sampling else {n: p.detach() for n, p in state.weights.items()}
            difffit.write_delta(work.staged / delta_name(size and number), product)
        done = len(curves)
        curves += [row | {"step": done + row["step"]} for row in state.curve]
    if machine.team.leads:
        checkpoints.write_curve(work.staged / "curve.csv", curves)


def _phase(
    params: Params, root: Path, adaptation: Entry, cached: latents.Latents, number: int | None, folder: Path,
    machine: compute.Machine,
) -> training.State:  # fmt: skip
    """One fine-tuning, from its checkpoint in ``folder`` on; ``number`` None: the only one."""
    wanted = params.finetune
    network = read_transformer(root / "data/generator/transformer").float()
    difffit.add_scales(network, wanted.gamma_fraction)
    weights = difffit.freeze_all_but_difffit(network)
    # Frozen weights need no float32 copy; the trainable ones keep it under autocast.
    difffit.cast_frozen(network, machine.dtype)
    network.checkpoint_blocks = wanted.gradient_checkpointing
    objective = adaptation.module.objective(variational=wanted.variational, **adaptation.values)
    steps = training.epochs_to_steps(wanted.epochs, images=len(cached.label), batch_size=wanted.batch_size)
    machine.trained(network, parts=network.compiled_parts, pays=steps >= compute.COMPILING_PAYS)
    state = training.start(weights, lr=wanted.lr, weight_decay=wanted.weight_decay)
    checkpoints.load_checkpoint(folder, state)
    count, label = sum(p.numel() for p in weights.values()), f"fine-tuning {adaptation.name}"
    part, place = ("", ()) if number is None else (f", phase {number}", (number,))
    log.info(
        "%s%s: %d trainable weights on %s, step %d of %d", adaptation.name, part, count, machine, state.step, steps
    )
    training.run(
        network, state, read_schedule(root / "data/generator"), cached, objective,
        steps=steps, batch_size=wanted.batch_size, label_dropout=wanted.label_dropout,
        learning_rate=lambda step: wanted.lr, ema_decay=lambda step: params.ema.decay,
        grad_norm_every=wanted.grad_norm_every, seed=derive_seed(params.seed, "finetune", *place),
        autocast=machine.autocast, accumulate=wanted.accumulate, team=machine.team,
        progress=partial(progress.track, label=label + part, total=steps, done=state.step),
        on_step=partial(_keep, folder, wanted.checkpoint_every, steps if number is not None else None),
    )  # fmt: skip
    return state


def _keep(folder: Path, every: int, last: int | None, state: training.State) -> None:
    """A checkpoint every so many steps, and of the ``last``: a phase that is done is not trained again."""
    folder.mkdir(exist_ok=True)
    checkpoints.checkpoint_every(folder, state.step if state.step == last else every, state)
