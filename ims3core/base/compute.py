"""The machine: device, threads, precision and compilation, decided once per process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn

from ims3core.base import processes
from ims3core.shell.errors import ParameterError

log = logging.getLogger(__name__)
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Machine:
    """Where and how tensors are computed."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    compile: bool
    team: processes.Team

    @property
    def dtype(self) -> torch.dtype:
        """The type of a frozen network's weights, and of products under :meth:`autocast`."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]

    def __str__(self) -> str:
        return f"{self.device} ({self.precision})"

    def autocast(self) -> contextlib.AbstractContextManager:
        """Mixed precision for training: bf16 products, float32 weights; nothing at float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def frozen(self, network: Module, *, constant: bool = True) -> Module:
        """``network`` ready for inference on this machine: on its device, in its precision, compiled if asked.

        ``constant`` weights are compiled in; others may be changed in place later. Compilation falls back to eager
        execution, with one logged line, where no compiler works.
        """
        network = network.to(self.device, self.dtype).eval().requires_grad_(False)
        if not self.compile:
            return network
        import torch._dynamo
        import torch._inductor.config

        torch._inductor.config.freezing = constant
        compiled = torch.compile(network)

        def call(*args: torch.Tensor) -> torch.Tensor:
            nonlocal compiled
            try:
                return compiled(*args)
            except (torch._dynamo.exc.BackendCompilerFailed, torch._inductor.exc.InductorError) as error:
                if compiled is network:
                    raise
                log.warning("compute.compile: no working compiler (%s), going on without", type(error).__name__)
                compiled = network
                return compiled(*args)

        return call


@contextlib.contextmanager
def one_thread_each() -> Iterator[int]:
    """Tensor operations on one CPU thread each while open; yields how many computations then fit side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def machine(*, device: str, precision: str, compile: bool, threads: int, launch: str | None = None) -> Machine:
    """The machine that the ``compute`` section asks for; sets the number of CPU threads.

    Several processes take a GPU each, or share the CPU's cores.

    Args:
        precision: ``auto`` is bf16 where :func:`computes_bf16`, else fp32.
        threads: per process; 0: all cores, divided by the processes on this machine.
        launch: how the processes were started; what matters here is in the environment.

    Raises:
        ParameterError: if ``compute.device`` is ``cuda`` and there is none, or fewer than processes here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("compute.device: found 'cuda', but torch sees no CUDA device; allowed here: auto, cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" and local > (gpus := torch.cuda.device_count()):
        raise ParameterError(
            f"compute.launch: found {local} processes and {gpus} GPU on this machine, wanted a GPU for each; "
            "fewer processes, or compute.device: cpu"
        )
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local))
    team = processes.team(device)
    place = torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if precision == "auto":
        precision = "bf16" if computes_bf16(place) else "fp32"
    elif precision == "bf16" and not computes_bf16(place):
        log.warning("compute.precision: bf16 is slower than fp32 on this %s, or emulated; auto takes fp32 here", device)
    return Machine(place, precision, compile, team)


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 products are the fast ones on ``device``: a GPU that has them, or a processor with AMX.

    AVX-512 BF16 without AMX was slower than fp32 in every piece that was measured, and without either torch
    emulates, over 10 times slower (`python benchmarks/precision.py`). What torch cannot tell counts as no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()  # torch has no public query
