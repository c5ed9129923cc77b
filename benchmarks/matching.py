"""What cheaper forms of Inversion-Matching keep of its gradient, and what a step of them costs.

    python benchmarks/matching.py [--batches 200] [--repeats 15] [--steps 4]

Needs `dvc repro generator latents`. Prints, for the paper's form with fewer inversion steps, with the gradient of the
last step only, and on a share of each batch: the cosine between its gradient of the matching term and that of the
full form (`--steps` inversion steps, gradient through all of them, on whole batches), both averaged over the
batches, the ratio of their norms, and the seconds of a fine-tuning step against one of plain diffusion fine-tuning.
The cosine of two independent halves of the batches under the full form says how much is noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.im import InversionMatching
from ims3core.base import compute
from ims3core.base.seeds import derive_seed
from ims3core.diffusion import batches, difffit, latents, training
from ims3core.diffusion.dit_layout import read_transformer
from ims3core.diffusion.generator import read_schedule
from ims3core.params import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15, help="timed steps of each form")
    parser.add_argument("--steps", type=int, default=4, help="inversion steps of the full form")
    arguments = parser.parse_args()
    params = load(Path("params.yaml"))
    machine = compute.machine(**params.compute.model_dump() | {"compile": False})
    cached, schedule = latents.read(Path("data/latents")), read_schedule(Path("data/generator"))
    network = read_transformer(Path("data/generator/transformer")).float()
    difffit.add_scales(network, params.finetune.gamma_fraction)
    weights = list(difffit.freeze_all_but_difffit(network).values())
    difffit.cast_frozen(network, machine.dtype)
    network.to(machine.device).train()
    adaptation, wanted = params.adaptation("im"), params.finetune
    full = adaptation.model_dump() | {"form": "paper", "grad_through": "inversion", "share": 1.0, "lambda_im": 1.0}
    full["inversion_steps"] = most = arguments.steps

    def batch(step: int) -> batches.Batch:
        drawn = batches.draw_batch(
            cached, schedule, step=step, batch_size=wanted.batch_size, label_dropout=wanted.label_dropout,
            null_label=network.null_label, seed=derive_seed(params.seed, "matching"),
        )  # fmt: skip
        return drawn.part(0, 1, machine.device)

    def gradient(form: dict, step: int) -> torch.Tensor:
        objective = InversionMatching(**form).objective(variational=wanted.variational)
        with machine.autocast():
            term = objective(network, schedule, batch(step))["im"]
        return torch.cat([g.flatten().double() for g in training.gradient(term, weights)])

    def seconds(objective: training.Objective) -> float:
        took = []
        for step in range(arguments.repeats + 1):
            drawn = batch(step)
            began = time.perf_counter()
            with machine.autocast():
                terms = objective(network, schedule, drawn)
            sum(terms.values()).backward()
            took.append(time.perf_counter() - began)
            for weight in weights:
                weight.grad = None
        return statistics.median(took[1:])

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine}, {arguments.batches} batches")
    plain = seconds(Diffusion().objective(variational=wanted.variational))
    print(f"plain diffusion fine-tuning: {plain:.4f} s a step")
    named = [(most, "inversion", share) for share in (1.0, 0.25, 0.125, 0.0625)]
    named += [(most, "last_step", 1.0)] + [(n, "inversion", 1.0) for n in (2, 1) if n < most]
    named += [(n, "inversion", share) for n, share in ((2, 0.125), (2, 0.0625), (1, 0.125)) if n < most]
    forms = {
        (n, through, share): full | {"inversion_steps": n, "grad_through": through, "share": share}
        for n, through, share in named
    }
    halves = [sum(gradient(full, step) for step in range(first, arguments.batches, 2)) for first in (0, 1)]
    whole = halves[0] + halves[1]
    print(f"full form, halves of the batches: cosine {_cosine(*halves):.3f}")
    for (n, through, share), form in forms.items():
        objective = InversionMatching(**form).objective(variational=wanted.variational)
        found = whole if form == full else sum(gradient(form, step) for step in range(arguments.batches))
        print(
            f"{n} steps, through {through:9s}, share {share:6.4f}: cosine {_cosine(whole, found):.3f}, norm "
            f"{float(found.norm() / whole.norm()):.2f}, {seconds(objective) / plain:.2f} x the plain step",
            flush=True,
        )  # fmt: skip


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


if __name__ == "__main__":
    main()
