"""Full-size DiT-XL/2 with random weights on this machine: conversion, and one step of everything that asks it.

One training step of every adaptation, one sampling step of every sampler, one step of inversion of the guide
``statistics``, one iteration of the refinement ``conditional_likelihood`` with the VAE's decoding.

    python benchmarks/dit_xl.py FOLDER

Writes about 6 GB into FOLDER (removed at the end) and prints seconds and peak memory of each part, each in a process
of its own, and the size of a fine-tuning checkpoint (weights, EMA and both Adam moments of the trainable weights).
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from ims3core.axes.adaptations import Adaptation
from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.im import InversionMatching
from ims3core.axes.adaptations.minimax import Minimax
from ims3core.axes.guides.modes import Modes
from ims3core.axes.guides.statistics import Statistics
from ims3core.axes.refinements import Start
from ims3core.axes.refinements.conditional_likelihood import ConditionalLikelihood
from ims3core.axes.samplers import RespacedSampler
from ims3core.axes.samplers.ddim import DDIM
from ims3core.axes.samplers.ddpm import DDPM
from ims3core.axes.samplers.from_statistics import FromStatistics
from ims3core.axes.samplers.mode_guided import ModeGuided
from ims3core.axes.samplers.prototype import Prototype
from ims3core.base import compute
from ims3core.data import ImageSet
from ims3core.diffusion import checkpoints, difffit, dit_layout, pretrained, training
from ims3core.diffusion.autoencoder import stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.sampling import Denoiser, NoiseStreams
from ims3core.diffusion.schedule import linear_schedule
from ims3core.planning.sizes import DIT_XL
from ims3core.students.settings import Augment

SHAPE = (4, 32, 32)


def write_checkpoint(folder: Path) -> None:
    """Random weights in the file format of DiT's authors."""
    with torch.device("meta"):
        ours = DiT(DIT_XL).state_dict()
    theirs = {f"{b}.": f"{a}." for a, b in pretrained.OUTER.items()}
    inner = {f".{b}.": f".{a}." for a, b in pretrained.INNER.items()}
    state = {"pos_embed": torch.zeros(1, DIT_XL.tokens, DIT_XL.width)}
    for key, value in ours.items():
        name = "y_embedder.embedding_table.weight" if key == "y_embedder.weight" else key
        for old, new in (inner if key.startswith("blocks.") else theirs).items():
            name = name.replace(old, new)
        state[name] = torch.randn(value.shape) * 0.02
    torch.save(state, folder / "dit.pt")


def convert(folder: Path) -> str:
    network = pretrained.read_original(folder / "dit.pt", heads=None)
    dit_layout.write_transformer(folder / "transformer", network)
    return f"{(folder / 'dit.pt').stat().st_size / 1e9:.2f} GB file"


def network_of(folder: Path) -> DiT:
    return dit_layout.read_transformer(folder / "transformer")


def denoiser_of(folder: Path, machine: compute.Machine) -> Denoiser:
    network = network_of(folder)
    call = machine.for_inference(network, parts=network.compiled_parts)
    return Denoiser(call, linear_schedule(), 1000, machine.device, machine.dtype)


def _training_step(folder: Path, adaptation: Adaptation) -> str:
    """Batch 1, gradients through all; float32 trainables, bf16 where it is native."""
    machine, objective = _machine(), adaptation.objective(variational=True)
    network = network_of(folder)
    difffit.add_scales(network, 0.5)
    weights = difffit.freeze_all_but_difffit(network)
    difffit.cast_frozen(network, machine.dtype)
    network.to(machine.device)
    network.checkpoint_blocks = True
    count = sum(p.numel() for p in weights.values())
    latents = Latents(torch.randn(1, 2, 4, 32, 32), torch.ones(1, 2, 4, 32, 32), torch.tensor([207, 1]))
    state = training.start(weights, lr=1e-3, weight_decay=0.0)
    plan = training.TrainingPlan(
        steps=1, batch_size=1, label_dropout=0.1, learning_rate=lambda step: 1e-3,
        ema_decay=lambda step: 0.9999, seed=0,
    )  # fmt: skip
    began = time.perf_counter()
    for _ in training.train(network, state, linear_schedule(), latents, objective, plan, machine):
        pass
    took = time.perf_counter() - began
    checkpoints.save_checkpoint(folder, state)
    size = (folder / checkpoints.CHECKPOINT).stat().st_size
    return f"{took:.1f} s for the step; {count:,} trainable weights; checkpoint {size / 1e6:.1f} MB"


def im_step(folder: Path) -> str:
    """The paper's form, 4 inversion steps."""
    adaptation = InversionMatching(
        lambda_im=0.002, form="paper", similarity="cosine", inversion_steps=4, pairing="matched",
        grad_through="inversion", share=1.0, clip_x0=False,
    )  # fmt: skip
    return _training_step(folder, adaptation)


def diffusion_step(folder: Path) -> str:
    return _training_step(folder, Diffusion())


def minimax_step(folder: Path) -> str:
    return _training_step(folder, Minimax(lambda_representative=0.002, lambda_diverse=0.008, memory=64))


def _machine() -> compute.Machine:
    return compute.machine(device="auto", precision="auto", compile=False, threads=0)


def _sampling_step(folder: Path, sampler: type[RespacedSampler], guide_latents: torch.Tensor | None, **section) -> str:
    """Four images, guidance 4 on three channels (a batch of 8), bf16 where it is native, one step."""
    denoiser = denoiser_of(folder, _machine())
    streams = NoiseStreams([torch.Generator().manual_seed(s) for s in range(4)], SHAPE)
    began = time.perf_counter()
    with torch.inference_mode():
        labels = torch.tensor([207, 1, 2, 3])
        entry = sampler(guidance=4.0, guided_channels=3, **section)
        out = entry.sample(denoiser, labels, streams, guide_latents)
    return f"{time.perf_counter() - began:.1f} s for the step of four images; output {tuple(out.shape)}"


def sampling_step(folder: Path) -> str:
    return _sampling_step(folder, DDPM, None, steps=1)


def ddim_step(folder: Path) -> str:
    return _sampling_step(folder, DDIM, None, steps=1)


def mode_guided_step(folder: Path) -> str:
    """Also k-means of a class of 1,300 latents into 50 modes, which a pool of IPC 50 asks for once."""
    latents = torch.randn(1300, *SHAPE)
    began = time.perf_counter()
    modes = Modes(finder="centre", restarts=1).start({"latents": latents}, 50, torch.Generator().manual_seed(0))
    took = time.perf_counter() - began
    message = _sampling_step(folder, ModeGuided, modes[:4], steps=1, form="ddpm", scale=0.1, free_share=0.0)
    return f"{message}; 50 modes of 1,300 latents {took:.1f} s"


def from_statistics_step(folder: Path) -> str:
    return _sampling_step(folder, FromStatistics, torch.randn(4, *SHAPE), steps=2, level=0.5)


def prototype_step(folder: Path) -> str:
    return _sampling_step(folder, Prototype, torch.randn(4, *SHAPE), steps=2, strength=0.5)


def statistics_step(folder: Path) -> str:
    """Four latents inverted by one guided step; their moments; the best of 1,000 sets of IPC 10."""
    denoiser = denoiser_of(folder, _machine())
    guide = Statistics(
        steps=2, level=0.5, guidance=4.0, guided_channels=3, sets=1000, skewness="per_dimension"
    )  # fmt: skip
    began = time.perf_counter()
    prepared = guide.prepare(torch.randn(4, *SHAPE), denoiser, 207)
    inverted = time.perf_counter()
    guide.start(prepared, 10, torch.Generator().manual_seed(0))
    ended = time.perf_counter()
    return f"{inverted - began:.1f} s for the step of four latents; best of 1,000 sets {ended - inverted:.1f} s"


def conditional_likelihood_step(folder: Path) -> str:
    """Four latents, one iteration, decoded by the VAE at full size."""
    machine = _machine()
    network = network_of(folder).eval().requires_grad_(False).to(machine.device)
    network.checkpoint_blocks = True
    vae = stable_diffusion_autoencoder().to(machine.device).eval()
    images = torch.zeros(4, 3, 256, 256, dtype=torch.uint8)
    chosen = ImageSet(images, torch.tensor([0, 1, 2, 3]))
    augment = Augment(
        crop_scale=None, flip=0.0, rotate=0.0, translate=0.0, colour=0.0, lighting=0.0, patch_shuffle=1,
        randaugment=None,
    )  # fmt: skip
    start = Start(
        chosen=chosen, latents=torch.randn(4, *SHAPE), real=chosen, statistics=([0.5] * 3, [0.5] * 3), augment=augment,
        seed=0, machine=machine, generator=lambda: (network, linear_schedule(), vae),
        labels=torch.tensor([207, 1, 2, 3]),
    )  # fmt: skip
    refinement = ConditionalLikelihood(
        iterations=1, lr=0.0006, worst_weight=0.001, timesteps=[20, 30], grid=50, noises=10, label="null",
        timestep_form="corrected", batch_size=4,
    )  # fmt: skip
    began = time.perf_counter()
    out = refinement.refine(start)
    return f"{time.perf_counter() - began:.1f} s for the iteration of four and its decoding; images {tuple(out.shape)}"


PARTS = {
    function.__name__: function
    for function in (
        convert, diffusion_step, im_step, minimax_step, sampling_step, ddim_step, mode_guided_step,
        from_statistics_step, prototype_step, statistics_step, conditional_likelihood_step,
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        began = time.perf_counter()
        said = PARTS[arguments.part](arguments.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{arguments.part:28s} {time.perf_counter() - began:6.1f} s, peak {peak:.2f} GiB: {said}", flush=True)
        return
    arguments.folder.mkdir(parents=True)
    try:
        write_checkpoint(arguments.folder)
        for part in PARTS:
            subprocess.run([sys.executable, __file__, str(arguments.folder), "--part", part], check=True)
    finally:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
