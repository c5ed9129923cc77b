"""How fast this machine is: rates measured in a few seconds on narrow copies of the networks, random weights.

What a stage runs is what is timed: the training loops with their augmentation, optimiser and averages. A rate that was
measured beside other work is used once and not kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ims3core.base import compute
from ims3core.base.measurements import cached, processor
from ims3core.data import ImageSet
from ims3core.data.decode import decode_chunk
from ims3core.diffusion import difffit, losses, training
from ims3core.diffusion.autoencoder import build_autoencoder, encode, stable_diffusion_autoencoder
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.diffusion.latents import Latents
from ims3core.diffusion.schedule import linear_schedule
from ims3core.params.sections import TrainedGenerator
from ims3core.planning.counting import flops
from ims3core.planning.facts import Cost
from ims3core.planning.image_costs import code_digest, student_costs
from ims3core.planning.sizes import DatasetSize, generator_config, with_generator
from ims3core.students import cell
from ims3core.students.augment import build_augmentation
from ims3core.students.networks import build_student
from ims3core.students.plans import OptimiserSpec, Plan
from ims3core.students.train import TrainingSetup, train_student

if TYPE_CHECKING:
    from torch import nn

    from ims3core.base.compute import Machine
    from ims3core.params import Params

log = logging.getLogger(__name__)
TRAINING = ("train", "compiled", "students", "compiled_students")
WORK = ("dit_train", "dit_sample", "vae_train", "vae", *TRAINING, "embed", "distance")
KINDS = (*WORK, "decode")
RATED_CODE = ("base/allocator.py", "base/compute.py", "diffusion/dit.py", "students/networks.py", "students/train.py")
DECODED = 1000.0  # images per second where nothing was measured
COMPILED = 1.5  # how much faster large networks are trained once they are compiled (measured: 1.4 to 1.9)
COMPILED_SMALL = {"fp32": 1.2, "bf16": 1.5}  # on small images; a ConvNet at 32 px on one thread (measured: 1.19, 1.55)
IDLE = 0.9  # of the processor's time that a process gets on a machine that does nothing else
LIMIT = 5e10  # FLOPs of one call that is timed


def machine_rates(params: Params, root: Path, size: DatasetSize, *, refresh: bool = False) -> dict[str, float]:
    """The rates of this machine for these networks, measured once and then stored in the user's cache folder.

    Those measured beside other work are returned, with one line, but not stored.

    Args:
        refresh: measures them again.
    """
    params = with_generator(params)
    machine, dit = compute.machine(**params.compute.model_dump()), generator_config(params, size.classes)
    facts = [
        code_digest(RATED_CODE), torch.get_num_threads(), processor(machine.device), str(machine), machine.compile,
        replace(dit, classes=0), params.finetune.batch_size, params.candidates.batch_size,
        isinstance(params.generator, TrainedGenerator), params.encoder.network, params.augment,
        params.network(params.eval.students[0]), params.data.side, params.data.channels, _student_side(params),
        params.eval.draws * params.eval.seeds, size.classes,
    ]  # fmt: skip
    share: list[float] = []

    def measure() -> dict[str, float]:
        with processor_share(share):
            return calibrate(params, root, size)

    def idle() -> bool:
        if share[0] < IDLE:
            log.warning(
                "rates measured on a busy machine, which gave this process %.0f %% of its processors' time: not kept; "
                "`ims3 plan` measures again", 100 * share[0],
            )  # fmt: skip
        return share[0] >= IDLE

    return cached("rates", facts, measure, fields=KINDS, refresh=refresh, keep=idle)


@contextmanager
def processor_share(shares: list[float], budget: float = 0.3) -> Iterator[None]:
    """Appends to ``shares`` what share of its processors' time this process gets, the less of before and after.

    A process that computes on all its threads, and nothing else, takes as many seconds of a processor as it has
    threads in a second, unless others are at work.
    """
    before = _share(budget)
    yield
    shares.append(min(before, _share(budget)))


def _share(budget: float) -> float:
    """The share during products of matrices for ``budget`` seconds."""
    matrix = torch.rand(512, 512)
    with compute.one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        began, used = time.perf_counter(), time.process_time()

        def multiply() -> None:
            while time.perf_counter() - began < budget:
                matrix @ matrix

        for run in [pool.submit(multiply) for _ in range(threads)]:
            run.result()
        return (time.process_time() - used) / (time.perf_counter() - began) / threads


def calibrate(params: Params, root: Path, size: DatasetSize, *, budget: float = 6.0) -> dict[str, float]:
    """FLOP/s of every kind of work on this machine, measured on narrow copies; ``decode`` in images per second.

    Args:
        budget: seconds that the measurements take together, about.
    """
    machine, part = compute.machine(**params.compute.model_dump()), budget / 6
    rates = _generator_rates(params, generator_config(params, size.classes), machine, part)
    rates |= _vae_rates(params, machine, part) | _classifier_rates(params, size, machine, part)
    points = torch.rand(1000, 512, dtype=torch.float64)
    rates["distance"] = 2 * 512 * 1e6 / _seconds(lambda: torch.cdist(points, points).kthvalue(5, dim=1), part / 4)
    side, channels = params.data.side, params.data.channels
    noise = (torch.rand(side, side, 3) * 255).to(torch.uint8).numpy()
    return rates | {"decode": 8 / _seconds(lambda: decode_chunk([noise] * 8, side, channels), part / 4)}


def _generator_rates(params: Params, config: DitConfig, machine: Machine, budget: float) -> dict[str, float]:
    """FLOP/s of training a DiT, or of fine-tuning one that exists, and of sampling from it."""
    section = params.generator
    scratch = isinstance(section, TrainedGenerator)
    small = replace(config, depth=config.depth if scratch else min(2, config.depth), classes=10)
    shape = (small.channels, small.side, small.side)
    with torch.device("meta"):
        one = torch.zeros(1, dtype=torch.int64)
        per_image = flops(DiT(small), torch.zeros(1, *shape), one, one)
    network, passes = DiT(small).to(machine.device), 3 if scratch else 2
    if not scratch:
        difffit.add_scales(network, params.finetune.gamma_fraction)
        difffit.freeze_all_but_difffit(network)
    asked = section.batch_size if isinstance(section, TrainedGenerator) else params.finetune.batch_size
    batch = _batch(asked, passes * per_image)
    step = _steps(network, torch.zeros(1, 2 * batch, *shape), batch, machine)
    rates = {"dit_train": passes * batch * per_image / _seconds(step, budget)}

    sampling = replace(machine, compile=machine.compile and small.width < 512)
    frozen, batch = sampling.for_inference(DiT(small)), _batch(params.candidates.batch_size, per_image)
    z, t = torch.zeros(batch, *shape, device=machine.device), torch.zeros(batch, dtype=torch.int64).to(machine.device)
    with torch.inference_mode():
        return rates | {"dit_sample": batch * per_image / _seconds(lambda: frozen(z.to(machine.dtype), t, t), budget)}


def _steps(network: DiT, mean: torch.Tensor, batch: int, machine: Machine) -> Callable[[], object]:
    """A function that trains ``network`` for one step more."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    state = training.start(weights, lr=1e-4, weight_decay=0.0)
    plan = training.TrainingPlan(10**9, batch, 0.1, lambda step: 1e-4, lambda step: 0.9, seed=0)
    latents = Latents(mean, torch.ones_like(mean), torch.zeros(mean.shape[1], dtype=torch.int64))
    objective = partial(losses.denoising_terms, variational=True)
    states = training.train(network, state, linear_schedule(), latents, objective, plan, machine)
    return lambda: next(states)


def _vae_rates(params: Params, machine: Machine, budget: float) -> dict[str, float]:
    """FLOP/s of the VAE: of its encoder, and of training both halves; on images of 64 px at most."""
    section, channels, side = params.generator, params.data.channels, min(64, params.data.side)
    if isinstance(section, TrainedGenerator):
        settings = section.vae.model_dump(include={"latent_channels", "widths"})
        vae = build_autoencoder(image_channels=channels, side=side, seed=0, **settings)
    else:
        vae = stable_diffusion_autoencoder(channels)
    vae.to(machine.device)
    with torch.device("meta"):
        encoder = build_like(vae)
        work = flops(encoder.encoder, torch.zeros(1, channels, side, side))
    batch = _batch(min(64, params.latents.batch_size), work)
    images = (torch.rand(batch, channels, side, side) * 255).to(torch.uint8)
    rate = batch * work / _seconds(lambda: encode(vae, images), budget / 2)
    if not isinstance(section, TrainedGenerator):
        return {"vae": rate, "vae_train": rate}
    values = torch.rand(batch, channels, side, side, device=machine.device)
    train = lambda: vae.encoder(values).float().square().mean().backward()  # noqa: E731
    return {"vae": rate, "vae_train": 3 * batch * work / _seconds(train, budget / 2)}


def build_like(vae: Any) -> Any:
    """A VAE of the same sizes."""
    return type(vae).from_config(vae.config)


def _student_side(params: Params) -> int:
    """The image size of the students."""
    return params.protocols[params.eval.protocols[0]].side or params.data.side


def _classifier_rates(params: Params, size: DatasetSize, machine: Machine, budget: float) -> dict[str, float]:
    """FLOP/s of training classifiers on all threads, of students side by side, and of the encoder."""
    student, side = params.eval.students[0], _student_side(params)
    name, options = params.network(student), params.network_options(student)
    costs = student_costs(name, size.classes, params.data.channels, side, "fp32", options=tuple(options.items()))

    def build() -> nn.Module:
        return build_student(
            name, classes=size.classes, channels=params.data.channels, side=side, seed=0, options=options
        )

    batch = _batch(64, 3 * costs.flops)
    train = partial(_train_students, params, size, machine, batch, side)
    runs = params.eval.draws * params.eval.seeds
    if cell.runs_on_one_thread(name, side=side, device=machine.device):
        with compute.one_thread_each() as threads:
            together = min(threads, runs)
            students = together * 3 * batch * costs.flops / train([build() for _ in range(together)], budget)
    else:
        students = 0.0
    rate = 3 * batch * costs.flops / train([build()], budget)
    network, batch = build().to(machine.device).eval(), _batch(params.features.batch_size, costs.flops)
    images = torch.rand(batch, params.data.channels, side, side, device=machine.device)
    with torch.inference_mode():
        embed = batch * costs.flops / _seconds(lambda: network(images), budget)
    students, gain = students or rate, COMPILED_SMALL[machine.precision] if side <= cell.SMALL_SIDE else COMPILED
    return {
        "train": rate, "compiled": gain * rate, "students": students, "compiled_students": gain * students,
        "embed": embed,
    }  # fmt: skip


def _train_students(
    params: Params, size: DatasetSize, machine: Machine, batch: int, side: int, networks: list[nn.Module], budget: float
) -> float:  # fmt: skip
    """Seconds of a step of all ``networks``, each trained by a thread of its own."""
    channels = params.data.channels
    images = (torch.rand(2 * batch, channels, side, side) * 255).to(torch.uint8)
    real = ImageSet(images, torch.arange(2 * batch) % size.classes)
    augmentation = build_augmentation(params.augment, side=side, channels=channels)
    statistics = [0.5] * channels, [0.25] * channels

    def train(network: nn.Module, steps: int) -> float:
        plan = Plan(2 * batch, batch, OptimiserSpec(1e-3), steps=steps, cutmix=0.5)
        held_out = ImageSet(real.images[:1], real.class_index[:1])
        began = time.perf_counter()
        train_student(network, real, held_out, TrainingSetup(plan, augmentation, statistics, side, machine), seed=0)
        return (time.perf_counter() - began) / steps

    with ThreadPoolExecutor(len(networks)) as pool:
        began, steps = time.perf_counter(), 2
        best = max(pool.map(partial(train, steps=steps), networks))
        while time.perf_counter() - began < budget:
            steps = max(2, min(50, int(budget / 5 / best)))
            best = min(best, sum(pool.map(partial(train, steps=steps), networks)) / len(networks))
        return best


def _batch(size: int, flops_per_image: float) -> int:
    """``size`` images, or as many as take a fraction of a second."""
    return max(1, min(size, int(LIMIT / flops_per_image)))


def _seconds(call: Callable[[], object], budget: float) -> float:
    """The fastest of as many calls as fit in ``budget`` seconds, after one that warms up."""
    call()
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < budget:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def assumed_rates(tflops: float) -> dict[str, float]:
    """The rates of a machine that sustains ``tflops`` on everything."""
    return dict.fromkeys(WORK, tflops * 1e12) | {"decode": DECODED}


def seconds(row: Cost, rates: dict[str, float]) -> float:
    """The time of one row: what does not depend on the work, and every kind of work at its rate."""
    return row.seconds + sum(work / rates[kind] for kind, work in row.work.items() if work)
