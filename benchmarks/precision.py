"""Is bf16 faster than fp32 on this machine, and does `compute.precision: auto` choose the faster one?

    python benchmarks/precision.py [PIECE ...] [--repeats 5]

The pieces of `hotspots.py`, as stages run them, and a training step of ResNetAP-10 at 112 px, in both precisions in
turn; one thread and its processor time, which other work on the machine does not stretch; medians. What decides it,
operation by operation, says `bf16.py`. Needs no data; the first run compiles for some minutes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from hotspots import PIECES, Call, seconds

from ims3core.base import compute
from ims3core.students.networks import build_student


def product(machine: compute.Machine) -> Call:
    a, b = (torch.randn(1536, 1536, dtype=machine.dtype) for _ in range(2))
    return lambda: a @ b


def large_student(machine: compute.Machine) -> Call:
    network = build_student("resnetap10", classes=10, channels=3, side=112, seed=0)
    network = machine.for_training(network, parts=[network], pays=True, convolves=True)
    images, labels = torch.rand(16, 3, 112, 112), torch.arange(16) % 10

    def step() -> None:
        with machine.autocast():
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()

    return step


COMPARED: dict[str, Callable[[compute.Machine], Call]] = {
    "product of 1536 x 1536 matrices": product, **PIECES, "training step, ResNetAP-10, 112 px, batch 16": large_student,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"beginnings of names; known: {'; '.join(COMPARED)}")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each piece and precision")
    asked = parser.parse_args()
    chosen = "bf16" if compute.computes_bf16(torch.device("cpu")) else "fp32"
    print(f"torch {torch.__version__}, one thread, {torch.backends.cpu.get_cpu_capability()}; auto chooses {chosen}")
    print("| piece | fp32 | bf16 | fp32 / bf16 |\n|---|--:|--:|--:|")
    for name, build in COMPARED.items():
        if asked.pieces and not name.startswith(tuple(asked.pieces)):
            continue
        calls = {}
        for precision in ("fp32", "bf16"):
            calls[precision] = build(compute.machine(device="cpu", precision=precision, compile=True, threads=1))
            calls[precision]()
        times = [{precision: seconds(call) for precision, call in calls.items()} for _ in range(asked.repeats)]
        median = {precision: statistics.median(run[precision] for run in times) for precision in calls}
        ratio = statistics.median(run["fp32"] / run["bf16"] for run in times)
        print(f"| {name} | {median['fp32']:.4f} s | {median['bf16']:.4f} s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
