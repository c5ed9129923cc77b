"""What is quick and what is slow in bf16 on this processor, operation by operation, and the ways to train with it.

    python benchmarks/bf16.py [--repeats 20] [--steps 10]

Operations at the sizes of our networks in float32, in bf16, and in float32 with products that may round to bf16 inside
(`torch.backends.mkldnn.*.fp32_precision`), with oneDNN's implementation, which says whether it has a kernel for this
processor; where none is named torch computes by itself. Then whole training steps of a ConvNet at 32 px and of a
DiT-S/2 in each way, with the losses they come to. One thread and its processor time; ways take turns; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from hotspots import random_dit, seconds

from ims3core.base import compute
from ims3core.diffusion.dit import DitConfig
from ims3core.students.networks import build_student

Call = Callable[[], object]
WAYS = ("fp32", "bf16", "bf16 inside")


@contextlib.contextmanager
def rounding_inside(on: bool) -> Iterator[None]:
    """float32 products that oneDNN may compute in bf16."""
    backends = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    for backend in backends:
        backend.fp32_precision = "bf16" if on else "ieee"
    try:
        yield
    finally:
        for backend in backends:
            backend.fp32_precision = "ieee"


def operations(dtype: torch.dtype) -> dict[str, Call]:
    def random(*shape: int, grad: bool = False) -> torch.Tensor:
        return torch.randn(*shape).to(dtype).requires_grad_(grad)

    calls: dict[str, Call] = {}
    for rows, inner, columns in ((1024, 128, 384), (2560, 384, 1536)):
        a, b = random(rows, inner), random(columns, inner)
        calls[f"linear {rows} x {inner} to {columns}"] = lambda a=a, b=b: F.linear(a, b)
    for side in (32, 16, 8):
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = random(64, 128, side, side, grad=True), random(128, 128, 3, 3, grad=True)
            x = x.detach().to(memory_format=layout).requires_grad_()
            w = w.detach().to(memory_format=layout).requires_grad_()
            name = f"convolution 128, {side} px, {str(layout).removeprefix('torch.').removesuffix('_format')}"
            calls[name] = lambda x=x, w=w: F.conv2d(x, w, padding=1)
            calls[f"{name}, with gradients"] = lambda x=x, w=w: F.conv2d(x, w, padding=1).sum().backward()
    x, q = random(64, 128, 16, 16), random(20, 6, 256, 64)
    tokens, weights = random(2560, 384), torch.randn(1536, 384)
    calls["instance norm 128, 16 px"] = lambda: F.group_norm(x, 128)
    calls["average pooling 128, 16 px"] = lambda: F.avg_pool2d(x, 2)
    calls["layer norm 2560 x 384"] = lambda: F.layer_norm(tokens, (384,))
    calls["gelu 2560 x 384"] = lambda: F.gelu(tokens, approximate="tanh")
    calls["attention, 256 tokens, heads of 64"] = lambda: F.scaled_dot_product_attention(q, q, q)
    calls["conversion of 1536 x 384 float32 weights"] = lambda: weights.to(dtype)
    return calls


def implementation(call: Call) -> str:
    """What oneDNN says that it runs; its lines go past Python to the standard output."""
    with tempfile.TemporaryFile() as stream:
        kept = os.dup(1)
        os.dup2(stream.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                call()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        stream.seek(0)
        lines = [line.split(",") for line in stream.read().decode().splitlines() if ",exec,cpu," in line]
    return " ".join(dict.fromkeys(fields[6] for fields in lines if fields[5] != "reorder")) or "-"


def training(network: torch.nn.Module, loss: Callable[[], torch.Tensor], way: str) -> Callable[[], float]:
    """A step of SGD; returns the loss before it."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        with rounding_inside("inside" in way), torch.autocast("cpu", torch.bfloat16, enabled=way.startswith("bf16 a")):
            value = loss()
            value.backward()
        optimiser.step()
        optimiser.zero_grad()
        return value.item()

    return step


def convnet(way: str) -> Callable[[], float]:
    network = build_student("convnet", classes=10, channels=3, side=32, seed=0)
    noise, labels = torch.Generator().manual_seed(0), torch.arange(64) % 10
    images = torch.randn(64, 3, 32, 32, generator=noise)
    if way.endswith("channels last"):
        network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    return training(network, lambda: F.cross_entropy(network(images).float(), labels), way)


def dit(way: str) -> Callable[[], float]:
    torch.manual_seed(0)
    network = random_dit(DitConfig(channels=4, side=32, patch=2, width=384, depth=12, heads=6, classes=10))
    z, t = torch.randn(2, 4, 32, 32), torch.zeros(2, dtype=torch.int64)
    return training(network, lambda: network(z, t, t).float().square().mean(), way)


STEPS = {
    "ConvNet, 32 px, batch 64": (convnet, [
        "fp32", "fp32, channels last", "bf16 autocast", "bf16 autocast, channels last", "bf16 inside",
        "bf16 inside, channels last",
    ]),
    "DiT-S/2, batch 2": (dit, ["fp32", "bf16 autocast", "bf16 inside"]),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each operation")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each way to train")
    asked = parser.parse_args()
    compute.machine(device="cpu", precision="fp32", compile=False, threads=1)
    print(f"torch {torch.__version__}, one thread, {torch.backends.cpu.get_cpu_capability()}")
    print("| operation | fp32 | bf16 | ratio | bf16 inside | ratio | oneDNN in bf16 |\n|---|--:|--:|--:|--:|--:|---|")
    plain, small = operations(torch.float32), operations(torch.bfloat16)
    for name in plain:
        calls = {"fp32": plain[name], "bf16": small[name], "bf16 inside": plain[name]}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(asked.repeats + 1):
            for way, call in calls.items():
                with rounding_inside(way == "bf16 inside"):
                    times[way].append(seconds(call))
        first, *others = (statistics.median(times[way][1:]) for way in WAYS)
        cells = " | ".join(f"{1000 * other:.2f} ms | {first / other:.2f}" for other in others)
        print(f"| {name} | {1000 * first:.2f} ms | {cells} | {implementation(small[name])} |", flush=True)
    print("\n| training step | way | seconds | ratio | loss after as many steps |\n|---|---|--:|--:|--:|")
    for piece, (build, ways) in STEPS.items():
        steps = {way: build(way) for way in ways}
        first_losses = {way: step() for way, step in steps.items()}
        taken = [{way: seconds(step) for way, step in steps.items()} for _ in range(asked.steps)]
        for way, step in steps.items():
            median = statistics.median(one[way] for one in taken)
            ratio = statistics.median(one["fp32"] / one[way] for one in taken)
            print(f"| {piece} | {way} | {median:.3f} | {ratio:.2f} | {first_losses[way]:.4f} to {step():.4f} |")


if __name__ == "__main__":
    main()
