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
from ims3core.diffusion.generator import read_schedule
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
        if trains:
            _train(params, root, adaptation, work, machine)
        precision = {"precision": machine.precision} if trains else {}
        work.publish(root / "data/adapted" / row, "adapted", loss=adaptation.name, **precision)


def _train(params: Params, root: Path, adaptation: Entry, work: scratch.Workspace, machine: compute.Machine) -> None:
    wanted = params.finetune
    cached = latents.read(root / "data/latents")
    files.read_manifest(root / "data/generator", "generator")
    network = read_transformer(root / "data/generator/transformer").float()
    difffit.add_scales(network, wanted.gamma_fraction)
    weights = difffit.freeze_all_but_difffit(network)
    # Frozen weights need no float32 copy; the trainable ones keep it under autocast.
    difffit.cast_frozen(network, machine.dtype)
    network.to(machine.device)
    network.checkpoint_blocks = wanted.gradient_checkpointing
    objective = adaptation.module.objective(variational=wanted.variational, **adaptation.values)
    steps = training.epochs_to_steps(wanted.epochs, images=len(cached.label), batch_size=wanted.batch_size)
    state = training.start(weights, lr=wanted.lr, weight_decay=wanted.weight_decay)
    checkpoints.load_checkpoint(work.path, state)
    count = sum(p.numel() for p in weights.values())
    log.info("%s: %d trainable weights on %s, step %d of %d", adaptation.name, count, machine, state.step, steps)
    training.run(
        network, state, read_schedule(root / "data/generator"), cached, objective,
        steps=steps, batch_size=wanted.batch_size, label_dropout=wanted.label_dropout,
        learning_rate=lambda step: wanted.lr, ema_decay=lambda step: params.ema.decay,
        grad_norm_every=wanted.grad_norm_every, seed=derive_seed(params.seed, "finetune"), autocast=machine.autocast,
        accumulate=wanted.accumulate, team=machine.team,
        progress=partial(progress.track, label=f"fine-tuning {adaptation.name}", total=steps, done=state.step),
        on_step=partial(checkpoints.checkpoint_every, work.path, wanted.checkpoint_every),
    )  # fmt: skip
    if not machine.team.leads:
        return
    product = state.ema if params.ema.use_for_sampling else {name: p.detach() for name, p in weights.items()}
    difffit.write_delta(work.staged / difffit.DELTA, product)
    checkpoints.write_curve(work.staged / "curve.csv", state.curve)
