"""What a user would take instead, from its own package, beside ours: ratios in one run, shares of the matmul peak.

    python benchmarks/peers.py [sampling matching students selections] [--precision fp32] [--repeats 5]

``sampling``: diffusers' ``DiTPipeline`` against our DDIM sampler; the same DiT-S/2 weights, steps, guidance and
batch, both with a VAE that costs nothing. ``matching``: a step of Inversion-Matching on diffusers'
``DiTTransformer2DModel`` of the same size, its biases trained, against ours with DiffFit. ``students``: torchvision's
v2 transforms in a ``DataLoader`` and a plain loop against our training loop, ConvNet-6 and ResNetAP-10 at 224 px, and
both against the bare eager step. ``selections``: a plain loop over groups and scikit-learn's distances against our
searches. Variants take turns; medians of ``--repeats`` rounds after one that warms up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.adaptations.diffusion import Diffusion
from ims3core.axes.adaptations.im import InversionMatching
from ims3core.axes.samplers.ddim import DDIM
from ims3core.base import compute
from ims3core.base.seeds import generator
from ims3core.data import ImageSet
from ims3core.diffusion import autoencoder, difffit, training
from ims3core.diffusion import generator as generators
from ims3core.diffusion.batches import Batch
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.sampling import Denoiser, NoiseStreams
from ims3core.diffusion.schedule import linear_schedule
from ims3core.s3.objective import make_instance
from ims3core.s3.search import select_groups
from ims3core.students import augment, networks, plans, train
from ims3core.students.settings import Augment

AUGMENT = Augment(
    crop_scale=[0.5, 1.0], flip=0.5, rotate=0.0, translate=0.0, colour=0.4, lighting=0.0, patch_shuffle=1,
    randaugment=None,
)  # fmt: skip
STATISTICS = ([0.5] * 3, [0.25] * 3)
Name = TypeVar("Name")


def peak(machine: compute.Machine) -> float:
    """FLOP/s of a product of 2048 x 2048 matrices."""
    a, b = (torch.randn(2048, 2048, device=machine.device, dtype=machine.dtype) for _ in range(2))
    return 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(10))


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turn(calls: Mapping[Name, Callable[[], object]], repeats: int) -> dict[Name, float]:
    """Median seconds of each call."""
    for call in calls.values():
        call()
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in rounds) for name in calls}


def dit_s() -> DiT:
    """DiT-S/2 for latents of 4 x 32 x 32, random weights."""
    torch.manual_seed(0)
    network = DiT(DitConfig(channels=4, side=32, patch=2, width=384, depth=12, heads=6, classes=1000))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return network


def forward_flops(network: DiT) -> int:
    """Of one image."""
    with torch.device("meta"):
        zeros = torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            DiT(network.config)(torch.zeros(1, 4, 32, 32), zeros, zeros)
    return counter.get_total_flops()


def sampling(machine: compute.Machine, repeats: int, *, batch: int = 10, steps: int = 4, guidance: float = 4.0) -> None:
    from diffusers import DiTPipeline

    network = dit_s()
    vae = autoencoder.build_autoencoder(image_channels=3, side=32, latent_channels=4, widths=[8], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        generators.write_generator(Path(folder), network, vae)
        pipeline = DiTPipeline.from_pretrained(folder, torch_dtype=machine.dtype).to(machine.device)
    pipeline.set_progress_bar_config(disable=True)
    labels = list(range(batch))
    work = forward_flops(network) * 2 * batch * steps

    def theirs() -> None:
        pipeline(labels, guidance_scale=guidance, num_inference_steps=steps, output_type="np")

    def ours_with(compiled: bool) -> Callable[[], None]:
        here = compute.Machine(machine.device, machine.precision, compiled, machine.processes)
        copied = DiT(network.config)
        copied.load_state_dict(network.state_dict())
        call = here.for_inference(copied, parts=copied.compiled_parts)
        denoiser = Denoiser(call, linear_schedule(), 1000, here.device, here.dtype)
        sampler = DDIM(steps=steps, guidance=guidance, guided_channels=3)

        def sample() -> None:
            streams = NoiseStreams([torch.Generator().manual_seed(s) for s in range(batch)], (4, 32, 32))
            with torch.inference_mode():
                sampler.sample(denoiser, torch.tensor(labels), streams, None).cpu()

        return sample

    found = in_turn({"DiTPipeline": theirs, "eager": ours_with(False), "compiled": ours_with(True)}, repeats)
    top = peak(machine)
    print(f"sampling, DiT-S/2, 32 x 32 latents, batch {batch}, guidance; matmul peak {top / 1e9:.0f} GFLOP/s")
    for name, took in found.items():
        print(
            f"  {name:12s} {took / batch / steps:.4f} s per image and step, {work / took / top:4.0%} of the peak, "
            f"{found['DiTPipeline'] / took:.2f} x DiTPipeline"
        )


class Diffusers(torch.nn.Module):
    """diffusers' transformer as ours is called; in evaluation, since in training it drops labels once more."""

    def __init__(self, network: DiT) -> None:
        from diffusers import DiTTransformer2DModel

        super().__init__()
        config = network.config
        self.inner = DiTTransformer2DModel(
            num_attention_heads=config.heads, attention_head_dim=config.width // config.heads,
            in_channels=config.channels, out_channels=2 * config.channels, num_layers=config.depth,
            sample_size=config.side, patch_size=config.patch, num_embeds_ada_norm=config.classes,
        ).eval()  # fmt: skip
        for name, weight in self.inner.named_parameters():
            weight.requires_grad_(name.endswith("bias"))

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.inner(z_t, timestep=t, class_labels=label).sample


def matching(machine: compute.Machine, repeats: int, *, batch: int = 8) -> None:
    """Terms and gradients of one fine-tuning step; our step sums plain diffusion and matching as the rows do."""
    paper = {
        "form": "paper", "lambda_im": 0.002, "similarity": "cosine", "inversion_steps": 4, "pairing": "matched",
        "grad_through": "inversion", "share": 1.0, "clip_x0": False,
    }  # fmt: skip
    public = paper | {"form": "official", "grad_through": "denoiser", "pairing": "all", "clip_x0": True}
    forms = {
        "the public code's form": public, "the paper's, 4 inversion steps": paper,
        "the paper's, 1": paper | {"inversion_steps": 1},
        "the profiles', 2 on an eighth": paper | {"inversion_steps": 2, "share": 0.125},
    }  # fmt: skip
    objectives = {name: InversionMatching(**form).objective(variational=False) for name, form in forms.items()}
    eager, quick = dit_s(), dit_s()
    for network in (eager, quick):
        difffit.add_scales(network, 0.5)
        difffit.freeze_all_but_difffit(network)
        difffit.cast_frozen(network, machine.dtype)
    for_training = compute.Machine(machine.device, machine.precision, True, machine.processes).for_training
    for_training(quick, parts=quick.compiled_parts, pays=True)
    networks = {"diffusers": Diffusers(eager).to(machine.device), "eager": eager.to(machine.device), "compiled": quick}
    schedule, noise = linear_schedule(), torch.Generator().manual_seed(0)
    z0, eps = torch.randn(2, batch, 4, 32, 32, generator=noise).to(machine.device)
    t = torch.linspace(100, 900, batch, device=machine.device).long()
    labels = torch.arange(batch, device=machine.device)
    drawn = Batch(z0, eps, t, labels, labels, labels)

    def step(network: torch.nn.Module, objective: training.Objective) -> Callable[[], None]:
        def call() -> None:
            with machine.autocast():
                terms = objective(cast(DiT, network), schedule, drawn)
            sum(terms.values()).backward()
            network.zero_grad()

        return call

    plain = Diffusion().objective(variational=False)
    calls = {("plain diffusion", name): step(network, plain) for name, network in networks.items()}
    for form, objective in objectives.items():
        calls |= {(form, name): step(network, objective) for name, network in networks.items()}
    found = in_turn(calls, repeats)
    work, top = forward_flops(eager) * batch, peak(machine)
    print(f"a step of Inversion-Matching, DiT-S/2, batch {batch}, {machine.precision}; peak {top / 1e9:.0f} GFLOP/s")
    for (form, name), took in found.items():
        theirs, bare = found[form, "diffusers"], found["plain diffusion", name]
        print(f"  {form:31s} {name:10s} {took:.3f} s, {theirs / took:.2f} x diffusers, {took / bare:.2f} plain steps")
    official = found["the public code's form", "compiled"]
    print(f"  the public code's form, compiled: {3 * work / official / top:.0%} of the peak")


def students(machine: compute.Machine, repeats: int, *, side: int = 224, batch: int = 16, steps: int = 4) -> None:
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch * steps, 3, side, side), generator=noise, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 10
    print(f"students at {side} px, batch {batch}, {machine.precision}, seconds per step")
    for name in ("convnet", "resnetap10"):

        def build(name: str = name) -> torch.nn.Module:
            return networks.build_student(name, classes=10, channels=3, side=side, seed=0).to(machine.device)

        bare = _bare(build(), images[:batch], labels[:batch], machine)
        quick = build()
        machine.for_training(quick, parts=[quick], pays=True, convolves=True)
        found = in_turn(
            {
                "eager bare step": bare,
                "DataLoader and loop": _plain(build(), images, labels, machine, steps),
                "our bare step": _bare(quick, images[:batch], labels[:batch], machine),
                "our whole loop": _ours(quick, images, labels, machine, steps),
            },
            repeats,
        )
        found["DataLoader and loop"] /= steps
        found["our whole loop"] /= steps
        overhead = found["our whole loop"] / found["our bare step"] - 1
        for variant, took in found.items():
            print(f"  {name:10s} {variant:20s} {took:.3f}, {found['eager bare step'] / took:.2f} x the eager bare step")
        print(f"  {name:10s} augmentation, loading and bookkeeping on top of our bare step: {overhead:.0%}")


def _bare(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, machine) -> Callable[[], None]:
    """One SGD step on a batch that is ready."""
    batch, wanted = images.to(machine.device).float() / 255, labels.to(machine.device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with machine.autocast():
            found = network(batch).float()
        F.cross_entropy(found, wanted).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _plain(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, machine, steps) -> Callable[[], None]:
    """As one writes it: transforms of torchvision on every image in a ``DataLoader``, a plain loop."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    transform = v2.Compose([
        v2.RandomResizedCrop(images.shape[-1], scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*STATISTICS),
    ])  # fmt: skip

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
            return transform(images[n]), labels[n]

    loader = DataLoader(Images(), batch_size=len(images) // steps, shuffle=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for batch, wanted in loader:
            with machine.autocast():
                found = network(batch.to(machine.device)).float()
            F.cross_entropy(found, wanted.to(machine.device)).backward()
            optimiser.step()
            optimiser.zero_grad()

    return epoch


def _ours(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, machine, steps) -> Callable[[], None]:
    """The loop of the students, CutMix as in the protocols; scored once at the end, on one image."""
    side, optimiser = images.shape[-1], plans.OptimiserSpec(0.01)
    plan = plans.Plan(len(images), len(images) // steps, optimiser, epochs=1, cutmix=1.0)
    augmentation = augment.build_augmentation(AUGMENT, side=side, channels=3)
    setup = train.TrainingSetup(plan, augmentation, STATISTICS, side, machine)
    data, one = ImageSet(images, labels), ImageSet(images[:1], labels[:1])

    def epoch() -> None:
        train.train_student(network, data, one, setup, seed=0)

    return epoch


def selections(machine: compute.Machine, repeats: int, *, classes: int = 50, groups: int = 20, dim: int = 512) -> None:
    noise = generator(0, "peers")
    real = F.normalize(torch.randn(classes, dim, generator=noise), dim=-1)
    around = F.normalize(real[:, None] + 0.02 * torch.randn(classes, groups, dim, generator=noise), dim=-1)

    def ours() -> None:
        problem = make_instance(around, real, alpha=0.4, beta=0.9, eps=1e-6, normalisation="paper")
        start = generator(0, "peers-start")
        select_groups(problem, start="nearest", restarts=1, max_sweeps=10, generator=start)

    found = in_turn({"plain loop": lambda: _plain_search(around.numpy(), real.numpy()), "ours": ours}, repeats)
    print(f"S3's search, {classes} classes x {groups} groups")
    for name, took in found.items():
        print(f"  {name:12s} {took:.3f} s, {found['plain loop'] / took:.0f} x the plain loop")


def _plain_search(around: np.ndarray, real: np.ndarray, *, alpha: float = 0.4, beta: float = 0.9) -> list[int]:
    """Algorithm 2 as one writes it: every group of every class in turn, the objective anew each time."""
    classes, groups = around.shape[:2]

    def objective(chosen: list[int]) -> float:
        kept = np.stack([around[c, g] for c, g in enumerate(chosen)])
        close = sum(np.log(1 - kept[c] @ real[c] + 1e-6) for c in range(classes))
        apart = sum(
            np.log(1 - kept[c] @ kept[d] + 1e-6) for c in range(classes) for d in range(classes) if c != d
        )  # fmt: skip
        return alpha * close - beta / (classes - 1) * apart

    chosen = [int((1 - around[c] @ real[c]).argmin()) for c in range(classes)]
    for c in range(classes):  # one sweep; ours goes on until a sweep changes nothing
        chosen[c] = min(range(groups), key=lambda g: objective([*chosen[:c], g, *chosen[c + 1 :]]))
    return chosen


PARTS = {"sampling": sampling, "matching": matching, "students": students, "selections": selections}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: known are {', '.join(PARTS)}")
    machine = compute.machine(device="auto", precision=arguments.precision, compile=True, threads=0)
    print(f"torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores, {machine}")
    for part in arguments.parts or PARTS:
        PARTS[part](machine, arguments.repeats)


if __name__ == "__main__":
    main()
