"""Whether bf16 is the fast precision: a GPU is asked, a processor measured, once."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ims3core.base.measurements import cached, processor

PIECES = ("product", "convolution")
WINS = 1.5  # times as fast as fp32; measured: about 2 with AVX-512 BF16, 5 with AMX, 0.03 to 0.4 where torch emulates
ROUNDS = 3


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 products are the fast ones on ``device``: of a GPU that has them, of a processor that wins by them.

    Processors that have such products differ in what they gain, and torch emulates them elsewhere, 2 to 40 times
    slower. So products and convolutions are timed in both precisions, for half a second, the first time this
    torch runs on this processor; what was found stays in the user's cache folder, so that one machine decides once.
    Both must reach :data:`WINS`, which is far from what wins and from what does not (`python benchmarks/precision.py`).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    facts = (processor(device), torch.backends.cpu.get_cpu_capability(), torch.__version__, WINS)
    return min(cached("bf16", facts, speeds, fields=PIECES).values()) >= WINS


def speeds() -> dict[str, float]:
    """How many times as fast bf16 is as fp32 on the processor, for :data:`PIECES`; 0 for those after one that loses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product = _ratio(lambda dtype: _product(torch.ones(512, 512, dtype=dtype)))
        lost = product < WINS
        return {
            "product": product,
            "convolution": 0.0 if lost else _ratio(lambda dtype: _convolution(*_layer(dtype))),
        }
    finally:
        torch.set_num_threads(threads)


def _layer(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and weights of a convolution as students have them. Ones: nothing is drawn that a stage could miss."""
    return torch.ones(8, 128, 16, 16, dtype=dtype), torch.ones(128, 128, 3, 3, dtype=dtype)


def _product(a: torch.Tensor) -> Callable[[], object]:
    return lambda: a @ a


def _convolution(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """With gradients, as in training."""
    x.requires_grad_()
    weight.requires_grad_()
    ones = torch.ones_like(x)
    return lambda: torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), ones)


def _ratio(build: Callable[[torch.dtype], Callable[[], object]]) -> float:
    """Least processor time in fp32 over that in bf16, both in turn: other work on the machine counts for neither."""
    calls = [build(torch.float32), build(torch.bfloat16)]
    for call in calls:
        call()  # kernels are built in the first
    fp32, bf16 = (
        min(times) for times in zip(*([_seconds(call) for call in calls] for _ in range(ROUNDS)), strict=True)
    )
    return float(fp32 / bf16)


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
