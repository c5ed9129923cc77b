"""How fast this machine is: rates measured in a few seconds on narrow copies of the networks, random weights."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ims3core.base import compute
from ims3core.data.decode import decode_chunk
from ims3core.diffusion.dit import DiT
from ims3core.planning.cache import cached
from ims3core.planning.costs import Cost
from ims3core.planning.image_costs import flops, generator_config, student_flops
from ims3core.planning.sizes import DatasetSize
from ims3core.students import cell
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.base.compute import Machine
    from ims3core.params import Params

START_UP = 4.0  # seconds of a process before it does anything: interpreter, torch, data (measured on 2 cores)
WORK = ("dit_train", "dit_sample", "student_train", "student_eval", "vae")
DECODED = 1000.0  # images per second where nothing was measured


def machine_rates(params: Params, root: Path, size: DatasetSize, *, refresh: bool = False) -> dict[str, float]:
    """The rates of this machine for these networks, measured once and then stored in the user's cache folder.

    Args:
        refresh: measures them again, for example after a measurement beside other work.
    """
    machine, dit = compute.machine(**params.compute.model_dump()), generator_config(params, size.classes)
    facts = [
        torch.__version__, torch.get_num_threads(), processor(machine.device), str(machine), machine.compile,
        replace(dit, depth=min(2, dit.depth), classes=0), params.finetune.batch_size, params.candidates.batch_size,
        params.network(params.eval.students[0]), params.data.side, params.data.channels, _student_side(params),
        params.eval.draws * params.eval.seeds,
    ]  # fmt: skip
    return cached("rates", facts, partial(calibrate, params, root, size), fields={*WORK, "decode"}, refresh=refresh)


def processor(device: torch.device) -> str:
    """What computes on ``device``, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def calibrate(params: Params, root: Path, size: DatasetSize, *, budget: float = 6.0) -> dict[str, float]:
    """FLOP/s of every kind of work on this machine, measured on narrow copies; ``decode`` in images per second.

    Args:
        budget: seconds that the measurements take together, about.
    """
    machine = compute.machine(**params.compute.model_dump())
    rates = _generator_rates(params, size, machine, budget / 4) | _student_rates(params, size, machine, budget / 4)
    side, channels = params.data.side, params.data.channels
    noise = (torch.rand(side, side, 3) * 255).to(torch.uint8).numpy()
    decode = 8 / _seconds(lambda: decode_chunk([noise] * 8, side, channels), 0.2)
    return rates | {"vae": rates["student_eval"], "decode": decode}


def _generator_rates(params: Params, size: DatasetSize, machine: Machine, budget: float) -> dict[str, float]:
    """FLOP/s of training a DiT and of sampling from it."""
    config = generator_config(params, size.classes)
    small = replace(config, depth=min(2, config.depth))
    network = DiT(small)
    with torch.device("meta"):
        z, one = torch.zeros(1, small.channels, small.side, small.side), torch.zeros(1, dtype=torch.int64)
        per_image = flops(DiT(small), z, one, one)

    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        t = torch.zeros(batch, dtype=torch.int64, device=machine.device)
        return torch.zeros(batch, small.channels, small.side, small.side, device=machine.device), t, t

    network.to(machine.device).train()
    batch = _batch(params.finetune.batch_size, 3 * per_image)

    def train() -> None:
        with machine.autocast():
            network(*inputs(batch)).float().square().mean().backward()

    rates = {"dit_train": 3 * batch * per_image / _seconds(train, budget)}
    sampling = replace(machine, compile=machine.compile and small.width < 512)
    frozen, batch = sampling.for_inference(DiT(small)), _batch(2 * params.candidates.batch_size, per_image)
    tensors = [x.to(machine.dtype) if x.is_floating_point() else x for x in inputs(batch)]
    with torch.inference_mode():
        return rates | {"dit_sample": batch * per_image / _seconds(lambda: frozen(*tensors), budget)}


def _student_side(params: Params) -> int:
    """The image size of the students."""
    return params.protocols[params.eval.protocols[0]].side or params.data.side


def _student_rates(params: Params, size: DatasetSize, machine: Machine, budget: float) -> dict[str, float]:
    """FLOP/s of training students, side by side where they are, and of evaluating one."""
    channels, side, student = params.data.channels, _student_side(params), params.eval.students[0]
    name, options = params.network(student), params.network_options(student)
    with torch.device("meta"):
        forward = student_flops(name, size.classes, channels, side, tuple(options.items()))
    network = build_student(name, classes=size.classes, channels=channels, side=side, seed=0, options=options)
    network.to(machine.device)
    batch = _batch(64, 3 * forward)
    images = torch.rand(batch, channels, side, side, device=machine.device)

    def train() -> None:
        with machine.autocast():
            network(images).float().square().mean().backward()

    if cell.runs_on_one_thread(name, side=side, device=machine.device):
        with compute.one_thread_each() as threads:
            students = min(threads, params.eval.draws * params.eval.seeds)
            rate = students * 3 * batch * forward / _seconds(train, budget)
    else:
        rate = 3 * batch * forward / _seconds(train, budget)
    network.eval()
    with torch.inference_mode():
        evaluation = batch * forward / _seconds(lambda: network(images), budget)
    return {"student_train": rate, "student_eval": evaluation}


def _batch(size: int, flops_per_image: float, limit: float = 5e10) -> int:
    """``size`` images, or as many as take a fraction of a second."""
    return max(1, min(size, int(limit / flops_per_image)))


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
    """The time of one row: start-up of its processes, and its work at the rate of its kind."""
    work = row.images if row.kind == "decode" else row.flops
    return START_UP * row.processes + (work / rates[row.kind] if work and row.kind != "none" else 0.0)
