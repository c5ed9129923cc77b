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
from ims3core.planning.costs import Cost
from ims3core.planning.kept import kept
from ims3core.planning.units import Sizes, dit_config, flops, student_flops
from ims3core.students import cell
from ims3core.students.networks import build_student

if TYPE_CHECKING:
    from ims3core.params import Params

START_UP = 4.0  # seconds of a process before it does anything: interpreter, torch, data (measured on 2 cores)
WORK = ("dit_train", "dit_sample", "student_train", "student_eval", "vae")
DECODED = 1000.0  # images per second where nothing was measured


def known_or_measured(params: Params, root: Path, count: Sizes, *, again: bool = False) -> dict[str, float]:
    """The rates of this machine for these networks, measured once and then kept in the user's cache folder.

    Args:
        again: measures them anew, for example after a measurement beside other work.
    """
    machine = compute.machine(**params.compute.model_dump())
    dit, student = dit_config(params, root, count), params.eval.students[0]
    side = params.protocols[params.eval.protocols[0]].side or params.data.side
    facts = [
        torch.__version__, torch.get_num_threads(), processor(machine.device), str(machine), machine.compile,
        replace(dit, depth=min(2, dit.depth), classes=0), params.finetune.batch_size, params.candidates.batch_size,
        params.network(student), params.data.side, params.data.channels, side,
        params.eval.draws * params.eval.seeds,
    ]  # fmt: skip
    measure = partial(calibrate, params, root, count)
    return kept("rates", facts, measure, fields={*WORK, "decode"}, again=again)


def processor(device: torch.device) -> str:
    """What computes on ``device``, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def calibrate(params: Params, root: Path, count: Sizes, *, budget: float = 6.0) -> dict[str, float]:
    """FLOP/s of every kind of work on this machine, measured on narrow copies; ``decode`` in images per second."""
    machine = compute.machine(**params.compute.model_dump())
    config = dit_config(params, root, count)
    small = replace(config, depth=min(2, config.depth))
    share = budget / 4
    network = DiT(small)
    with torch.device("meta"):
        z, one = torch.zeros(1, small.channels, small.side, small.side), torch.zeros(1, dtype=torch.int64)
        per_image = flops(DiT(small), z, one, one)

    def dit_inputs(batch: int) -> tuple[torch.Tensor, ...]:
        t = torch.zeros(batch, dtype=torch.int64, device=machine.device)
        return torch.zeros(batch, small.channels, small.side, small.side, device=machine.device), t, t

    network.to(machine.device).train()
    batch = _batch(params.finetune.batch_size, 3 * per_image)

    def train() -> None:
        with machine.autocast():
            network(*dit_inputs(batch)).float().square().mean().backward()

    rates = {"dit_train": 3 * batch * per_image / _seconds(train, share)}
    sampling = replace(machine, compile=machine.compile and small.width < 512)
    frozen, batch = sampling.frozen(DiT(small)), _batch(2 * params.candidates.batch_size, per_image)
    inputs = [x.to(machine.dtype) if x.is_floating_point() else x for x in dit_inputs(batch)]
    with torch.inference_mode():
        rates["dit_sample"] = batch * per_image / _seconds(lambda: frozen(*inputs), share)

    side = params.protocols[params.eval.protocols[0]].side or params.data.side
    name, options = params.network(params.eval.students[0]), params.network_options(params.eval.students[0])
    with torch.device("meta"):
        forward = student_flops(name, count.classes, params.data.channels, side, tuple(options.items()))
    student = build_student(
        name, classes=count.classes, channels=params.data.channels, side=side, seed=0, options=options
    ).to(machine.device)
    batch = _batch(64, 3 * forward)
    images = torch.rand(batch, params.data.channels, side, side, device=machine.device)

    def learn() -> None:
        with machine.autocast():
            student(images).float().square().mean().backward()

    if cell.side_by_side(name, side=side, device=machine.device):
        with compute.one_thread_each() as threads:
            at_once = min(threads, params.eval.draws * params.eval.seeds)
            rates["student_train"] = at_once * 3 * batch * forward / _seconds(learn, share)
    else:
        rates["student_train"] = 3 * batch * forward / _seconds(learn, share)
    student.eval()
    with torch.inference_mode():
        rates["student_eval"] = batch * forward / _seconds(lambda: student(images), share)
    rates["vae"] = rates["student_eval"]
    noise = (torch.rand(params.data.side, params.data.side, 3) * 255).to(torch.uint8).numpy()
    rates["decode"] = 8 / _seconds(lambda: decode_chunk([noise] * 8, params.data.side, params.data.channels), 0.2)
    return rates


def _batch(wanted: int, flops_per_image: float, limit: float = 5e10) -> int:
    """As many images as wanted, but not more work than a fraction of a second."""
    return max(1, min(wanted, int(limit / flops_per_image)))


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


def given(tflops: float) -> dict[str, float]:
    """The rates of a machine that sustains ``tflops`` on everything."""
    return dict.fromkeys(WORK, tflops * 1e12) | {"decode": DECODED}


def seconds(row: Cost, rates: dict[str, float]) -> float:
    """The time of one row: start-up of its processes, and its work at the rate of its kind."""
    work = row.images if row.kind == "decode" else row.flops
    return START_UP * row.processes + (work / rates[row.kind] if work and row.kind != "none" else 0.0)
