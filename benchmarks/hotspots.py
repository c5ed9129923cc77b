"""Where the time goes: share of the matmul peak, of matrix products, and the five dearest operations of each piece.

    python benchmarks/hotspots.py [PIECE ...] [--precision fp32] [--repeats 5] [--eager]

The networks and settings of the profiles `digits` and `imagenette-small`, and a DiT-S/2, with random weights on random
images, as the stages run them, compiled where they are unless `--eager`. One thread and its processor time, which other
work on the machine does not stretch. FLOPs are counted on the same piece uncompiled; the peak is that of a product of
2048 x 2048 matrices, in turn with the piece; medians. Shares of operations are of the time that torch's profiler
attributes to any; the rest is what Python needs between them. Needs no data; the first run compiles for some minutes.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.refinements import Start
from ims3core.axes.samplers.ddim import DDIM
from ims3core.base import compute
from ims3core.data import ImageSet
from ims3core.diffusion import latents, losses, training
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.sampling import Denoiser, NoiseStreams
from ims3core.diffusion.schedule import linear_schedule
from ims3core.params import Params
from ims3core.pipeline import profiles
from ims3core.students import cell
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.train import CHUNK_VALUES, State, TrainingSetup, train

CLASSES = 10
# A loop that the compiler fused is named after its neighbours, too.
PRODUCTS = re.compile(r"(?!fused_).*(mm|linear|conv|attention)", re.IGNORECASE)
Call = Callable[[], object]


def settings(name: str) -> Params:
    return profiles.read(Path(__file__).parents[1], name)


def random_images(params: Params, per_class: int) -> ImageSet:
    noise, labels = torch.Generator().manual_seed(0), torch.arange(CLASSES).repeat_interleave(per_class)
    shape = (len(labels), params.data.channels, params.data.side, params.data.side)
    return ImageSet(torch.randint(256, shape, generator=noise, dtype=torch.uint8), labels)


def dit_of(params: Params) -> DiT:
    """The DiT of a profile; patched weights are random, not zero, so that nothing is skipped."""
    side = params.data.side // 2 ** (len(params.generator.vae.widths) - 1)
    sizes = params.generator.dit.model_dump()
    return random_dit(DitConfig(channels=params.generator.vae.latent_channels, side=side, classes=CLASSES, **sizes))


def random_dit(config: DitConfig) -> DiT:
    network = DiT(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return network


def sampling(machine: compute.Machine, network: DiT, sampler, batch: int) -> Call:
    config = network.config
    call = machine.for_inference(network, parts=network.compiled_parts)
    denoiser = Denoiser(call, linear_schedule(), config.classes, machine.device, machine.dtype)
    labels = torch.arange(batch) % config.classes

    def sample() -> None:
        streams = [torch.Generator().manual_seed(number) for number in range(batch)]
        with torch.inference_mode():
            sampler.sample(denoiser, labels, NoiseStreams(streams, (config.channels, config.side, config.side)), None)

    return sample


def dit_s(machine: compute.Machine) -> Call:
    network = random_dit(DitConfig(channels=4, side=32, patch=2, width=384, depth=12, heads=6, classes=1000))
    return sampling(machine, network, DDIM(steps=1, guidance=4.0, guided_channels=3), 10)


def pool(machine: compute.Machine, name: str, batch: int = 50) -> Call:
    params = settings(name)
    return sampling(machine, dit_of(params), params.pool("dit").sampler, batch)


def generator_training(machine: compute.Machine, name: str, steps: int = 2) -> Call:
    params = settings(name)
    network, own = dit_of(params), params.generator
    machine.for_training(network, parts=network.compiled_parts, pays=True)
    state = training.start(dict(network.named_parameters()), lr=own.lr, weight_decay=0.0)
    mean = torch.randn(1, 640, network.config.channels, network.config.side, network.config.side)
    cached = latents.Latents(mean, torch.full_like(mean, 0.1), torch.arange(640) % CLASSES)
    plan = training.TrainingPlan(
        10**6, own.batch_size, own.label_dropout, lambda step: 1e-4, lambda step: own.ema_decay, seed=0
    )  # fmt: skip
    objective = partial(losses.denoising_terms, variational=True)
    states = training.train(network, state, linear_schedule(), cached, objective, plan, machine)
    return lambda: [*islice(states, steps)]


def refinement(machine: compute.Machine, name: str, iterations: int = 2) -> Call:
    """The first iterations of a set of IPC 10, on untrained networks: those that are trained cost the same."""
    params = settings(name)
    entry = params.refinement("ims3_plus").overridden({"networks": 1, "train_steps": {1: [0, 0]}}, "ims3_plus")
    channels = params.data.channels
    start = Start(
        chosen=random_images(params, 10), latents=None, real=random_images(params, 100), seed=0, machine=machine,
        statistics=([0.5] * channels, [0.25] * channels), augment=params.refining_augmentation("ims3_plus"),
        labels=torch.arange(CLASSES), progress=lambda steps: islice(steps, iterations),
    )  # fmt: skip
    return lambda: entry.refine(start)


def student(machine: compute.Machine, name: str) -> Call:
    """As many steps of a set of IPC 10 as are augmented in one call; never scored."""
    params = settings(name)
    channels, side = params.data.channels, params.data.side
    whole = params.protocols["steps"].plan("convnet", ipc=10, classes=CLASSES, images=10 * CLASSES)
    network = build_student("convnet", classes=CLASSES, channels=channels, side=side, seed=0)
    pays = cell.compiling_pays(whole, "convnet", side=side, device=machine.device)
    machine.for_training(network, parts=[network], pays=pays, convolves=True)
    statistics = ([0.5] * channels, [0.25] * channels)
    augmentation = build_augmentation(
        params.augmentation("steps"), side=side, channels=channels, statistics=statistics
    )  # fmt: skip
    setup = TrainingSetup(replace(whole, steps=10**6, evaluations=1), augmentation, statistics, side, machine)
    states = train(State(network, setup), random_images(params, 10), random_images(params, 1), setup, seed=0)
    together = CHUNK_VALUES // (whole.batch_size * channels * side**2)
    return lambda: [*islice(states, together)]


PIECES: dict[str, Callable[[compute.Machine], Call]] = {
    "sampling, DiT-S/2, batch 10": dit_s,
    "sampling, digits, batch 50": partial(pool, name="digits"),
    "generator training, digits": partial(generator_training, name="digits"),
    "refinement, digits": partial(refinement, name="digits"),
    "refinement, 32 px": partial(refinement, name="imagenette-small"),
    "student, digits": partial(student, name="digits"),
    "student, 32 px": partial(student, name="imagenette-small"),
}


def seconds(call: Call) -> float:
    """Of the processor."""
    began = time.process_time()
    call()
    return time.process_time() - began


def operations(call: Call) -> tuple[Counter[str], float]:
    """Seconds by operation, and what the call took with the profiler on, both by the clock."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        found[plain(event.key)] += event.self_cpu_time_total / 1e6
    return found, took


def plain(key: str) -> str:
    """An operation's name without its number in a graph: ``graph_0_cpp_fused_add_mul_12`` is ``fused_add_mul``."""
    return re.sub(r"^(?:graph_\d+_)?(?:aten::|mkldnn::|cpp_)|_\d+$", "", re.sub(r"^graph_\d+_", "", key))[:60]


def share(found: Counter[str], names: Iterable[str]) -> float:
    return sum(found[name] for name in names) / found.total()


def measure(name: str, machine: compute.Machine, repeats: int) -> None:
    build = PIECES[name]
    with FlopCounterMode(display=False) as counter:
        build(compute.Machine(machine.device, machine.precision, False, machine.processes))()
    a, b = (torch.randn(2048, 2048, dtype=machine.dtype) for _ in range(2))
    call = build(machine)
    call()
    rounds = [(seconds(lambda: a @ b), seconds(call)) for _ in range(repeats)]
    top = statistics.median(2 * 2048**3 / product for product, _ in rounds)
    took = statistics.median(piece for _, piece in rounds)
    found, profiled = operations(call)
    outside = max(0.0, 1 - found.total() / profiled)
    dearest = ", ".join(f"{one} {share(found, [one]):.0%}" for one, _ in found.most_common(5))
    print(
        f"| {name} | {counter.get_total_flops() / took / 1e9:.0f} of {top / 1e9:.0f} GFLOP/s, "
        f"{counter.get_total_flops() / took / top:.0%} | {share(found, filter(PRODUCTS.match, found)):.0%} | "
        f"{outside:.0%} | {dearest} |", flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"beginnings of names; known: {'; '.join(PIECES)}")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    asked = parser.parse_args()
    import torch._inductor.config

    torch._inductor.config.cpp.enable_kernel_profile = True  # compiled code then says which of its loops runs
    machine = compute.machine(device="cpu", precision=asked.precision, compile=not asked.eager, threads=1)
    print(f"torch {torch.__version__}, one thread, {machine}, {'eager' if asked.eager else 'compiled where it pays'}")
    print(
        "| piece | of the peak | matrix products | outside of operations | dearest operations |\n|---|---|--:|--:|---|"
    )
    for name in PIECES:
        if not asked.pieces or name.startswith(tuple(asked.pieces)):
            measure(name, machine, asked.repeats)


if __name__ == "__main__":
    main()
