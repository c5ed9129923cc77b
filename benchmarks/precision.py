"""Is bf16 faster than fp32 on this machine, and does `compute.precision: auto` choose the faster one?

    python benchmarks/precision.py [--repeats 5]

Times the three pieces that cost most on a laptop, in both precisions in turn, and prints medians and ratios:
a product of matrices, a guided sampling step of a DiT-S/2, and a training step of ResNetAP-10 at 112 px.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from ims3core.base import compute
from ims3core.diffusion.dit import DiT, DitConfig
from ims3core.students.networks import build_student

DIT_S = DitConfig(channels=4, side=32, patch=2, width=384, depth=12, heads=6, classes=10)


def product(precision: str) -> Callable[[], object]:
    a, b = (torch.randn(1536, 1536, dtype=TYPES[precision]) for _ in range(2))
    return lambda: a @ b


def sampling(precision: str) -> Callable[[], object]:
    network = DiT(DIT_S).to(TYPES[precision]).eval()
    z, t = torch.randn(8, 4, 32, 32, dtype=TYPES[precision]), torch.zeros(8, dtype=torch.int64)
    return lambda: network(z, t, t)


def training(precision: str) -> Callable[[], object]:
    network = build_student("resnetap10", classes=10, channels=3, side=112, seed=0)
    images, labels = torch.rand(16, 3, 112, 112), torch.arange(16) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()

    return step


TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PIECES = {
    "product of 1536 x 1536 matrices": product,
    "DiT-S/2, 32 x 32 latents, 4 images guided": sampling,
    "ResNetAP-10, 112 px, batch 16, training step": training,
}


def seconds(call: Callable[[], object]) -> float:
    """One timed call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each piece and precision")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    chosen = "bf16" if compute.computes_bf16(torch.device("cpu")) else "fp32"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; compute.precision auto: {chosen}")
    for name, build in PIECES.items():
        calls = {precision: build(precision) for precision in TYPES}
        with torch.inference_mode(mode=build is not training):
            for call in calls.values():
                call()
            times = [{precision: seconds(call) for precision, call in calls.items()} for _ in range(repeats)]
        median = {precision: statistics.median(run[precision] for run in times) for precision in TYPES}
        ratio = statistics.median(run["fp32"] / run["bf16"] for run in times)
        print(f"{name}: fp32 {median['fp32']:.4f} s, bf16 {median['bf16']:.4f} s, fp32 / bf16 {ratio:.2f}")


if __name__ == "__main__":
    main()
