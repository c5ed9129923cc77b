"""DiT-XL/2 with random weights on a GPU: sampling, fine-tuning steps and students, and their shares of the peak.

    python benchmarks/gpu_xl.py [sampling finetuning vae students] [--batch 64]

Nothing is read or written but compiled code. Seconds are medians of a few rounds after those that compile; the
peak is that of a bf16 product of 8192 x 8192 matrices on the same card.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import peers
import torch

from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.im import InversionMatching
from ims3core.axes.adaptations.minimax import Minimax
from ims3core.axes.samplers.ddpm import DDPM
from ims3core.axes.samplers.dpm_solver import DPMSolver
from ims3core.base import compute
from ims3core.diffusion import difffit, training
from ims3core.diffusion.autoencoder import decode, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.sampling import Denoiser, NoiseStreams
from ims3core.diffusion.schedule import linear_schedule
from ims3core.planning.sizes import DIT_XL

SHAPE = (4, 32, 32)
WORK = 2 * 118.6e9  # FLOP of one image and call (DiT, Table 1)


def network_on(machine: compute.Machine) -> DiT:
    with torch.device(machine.device):
        network = DiT(DIT_XL)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.02)
    return network


def median(call: Callable[[], object], rounds: int = 5) -> float:
    took = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    print(f"    first {took[0]:.1f} s", flush=True)
    return statistics.median(took[2:])


def sampling(machine: compute.Machine, batch: int, peak: float) -> None:
    network = network_on(machine)
    call = machine.for_inference(network, parts=network.compiled_parts)
    denoiser = Denoiser(call, linear_schedule(), 1000, machine.device, machine.dtype)
    shared = {"guidance": 4.0, "guided_channels": 3}
    samplers = (DDPM(**shared, steps=10), DPMSolver(**shared, steps=15, spacing="time", interval=[0.1, 0.8]))
    for sampler in samplers:

        def sample(sampler=sampler) -> None:
            streams = NoiseStreams([torch.Generator().manual_seed(s) for s in range(batch)], SHAPE)
            with torch.inference_mode():
                sampler.sample(denoiser, torch.arange(batch) % 1000, streams, None).cpu()

        took, calls = median(sample, 3), sampler.network_calls()
        share, per_second = batch * calls * WORK / took / peak, batch / took
        print(
            f"  {sampler.entry_name()}: {calls} calls of batch {batch} in {took:.3f} s, {share:.0%} of the peak; "
            f"{per_second:.1f} images/s, {per_second * calls / 100:.1f} at 50 guided steps",
            flush=True,
        )


def finetuning(machine: compute.Machine, batch: int, peak: float) -> None:
    """Batch 8, as in the paper, with optimiser and EMA."""
    full = {
        "lambda_im": 0.002, "form": "paper", "similarity": "cosine", "inversion_steps": 4,
        "pairing": "matched", "grad_through": "inversion", "share": 1.0, "clip_x0": False,
    }  # fmt: skip
    cheap = full | {"grad_through": "last_step", "share": 0.25}
    adaptations = {
        "diffusion": Diffusion(),
        "im, 4 steps, all through": InversionMatching(**full),
        "im, 4 steps, last step, a quarter": InversionMatching(**cheap),
        "im, 2 steps, an eighth (the profiles')": InversionMatching(**full | {"inversion_steps": 2, "share": 0.125}),
        "im, 1 step, a quarter": InversionMatching(**cheap | {"inversion_steps": 1}),
        "minimax": Minimax(lambda_representative=0.002, lambda_diverse=0.008, memory=64),
    }
    objectives = {name: adaptation.objective(variational=True) for name, adaptation in adaptations.items()}
    for compiled in (False, True):
        here = compute.Machine(machine.device, machine.precision, compiled, machine.processes)
        network = network_on(here)
        difffit.add_scales(network, 0.5)
        weights = difffit.freeze_all_but_difffit(network)
        difffit.cast_frozen(network, here.dtype)
        here.for_training(network, parts=network.compiled_parts, pays=True)
        latents = Latents(torch.randn(1, 64, *SHAPE), torch.ones(1, 64, *SHAPE), torch.arange(64) % 10)
        for name, objective in objectives.items():
            state = training.start(weights, lr=1e-3, weight_decay=0.0)

            step = partial(_five_steps, network, state, latents, objective, here)
            print(f"  {'compiled' if compiled else 'eager'}, {name}: {median(step, 3) / 5:.4f} s a step", flush=True)


def _five_steps(
    network: DiT, state: training.State, latents: Latents, objective: training.Objective, machine: compute.Machine
) -> None:
    plan = training.TrainingPlan(
        steps=state.step + 5, batch_size=8, label_dropout=0.1, learning_rate=lambda step: 1e-3,
        ema_decay=lambda step: 0.9999, seed=0,
    )  # fmt: skip
    for _ in training.train(network, state, linear_schedule(), latents, objective, plan, machine):
        pass


def vae(machine: compute.Machine, batch: int, peak: float) -> None:
    network, latents = stable_diffusion_autoencoder().to(machine.device).eval(), torch.randn(batch, *SHAPE)
    print(f"  {batch / median(lambda: decode(network, latents), 3):.1f} images/s decoded, fp32", flush=True)


def students(machine: compute.Machine, batch: int, peak: float) -> None:
    peers.students(machine, 3, batch=batch)


PARTS = {"sampling": sampling, "finetuning": finetuning, "vae": vae, "students": students}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    machine = compute.machine(device="cuda", precision="auto", compile=True, threads=0)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * 8192**3 / median(lambda: [a @ b for _ in range(10)]) * 10
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {machine}: {peak / 1e12:.0f} TFLOP/s", flush=True
    )
    for part in arguments.parts or PARTS:
        began = time.perf_counter()
        print(part, flush=True)
        PARTS[part](machine, arguments.batch, peak)
        used = torch.cuda.max_memory_allocated() / 2**30
        print(f"  {time.perf_counter() - began:.0f} s, {used:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
