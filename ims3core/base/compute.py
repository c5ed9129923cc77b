"""The machine: device, threads, precision and compilation, decided once per process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from ims3core.base import caches, distributed
from ims3core.base.allocator import keep_freed_memory
from ims3core.base.library_errors import reason
from ims3core.base.precision import computes_bf16
from ims3core.errors import ParameterError

log = logging.getLogger(__name__)
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Machine:
    """Where and how tensors are computed."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    compile: bool
    processes: distributed.ProcessGroup

    @property
    def dtype(self) -> torch.dtype:
        """The type of a frozen network's weights, and of products under :meth:`autocast`."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]

    def __str__(self) -> str:
        return f"{self.device} ({self.precision})"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision for training: bf16 products, float32 weights; nothing at float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def for_inference(
        self, network: nn.Module, *, parts: list[nn.Module] | None = None, constant: bool = True
    ) -> Callable[..., torch.Tensor]:
        """``network`` ready for inference on this machine: on its device, in its precision, compiled if asked.

        Without a working compiler it is executed as it is, with one logged line; so is a network below :data:`SMALL`,
        which makes a pool in less time than its code takes to load.

        Args:
            parts: what is compiled, which may be less than the whole.
            constant: whether the weights stay as they are; others may be changed in place between calls. On a
                processor, and from :data:`LARGE` on, constant ones are compiled in: 1.1 to 1.3 times
                faster, but torch keeps no such code for the next process.
        """
        network = network.to(self.device, self.dtype).eval().requires_grad_(False)
        count = sum(weight.numel() for weight in network.parameters())
        if count < SMALL or not self._compiles():
            return network
        import torch._inductor.config

        frozen = constant and count >= LARGE and self.device.type == "cpu"
        torch._inductor.config.freezing = frozen
        compile_parts([network] if parts is None or frozen else parts)
        return network

    def for_training(self, network: Module, *, parts: list[nn.Module], pays: bool, convolves: bool = False) -> Module:
        """``network`` on this machine, ready for training.

        If asked, and if it ``pays``, ``parts`` of it are compiled in place; the code is kept on disk, so that the
        next process starts in seconds. Equal graphs give equal code, so a resumed training takes the same steps; for
        that, compiled code on a processor must also add in a fixed order, which torch leaves open for a table's rows.

        Args:
            convolves: whether it is mostly convolutions, whose compiled code likes channels last: 1.5 to 2.2 times
                faster together at 224 px. Eager pooling and norms in bf16 are several times slower in that layout.
        """
        network.to(self.device).train()
        if pays and self._compiles():
            if convolves:
                network.to(memory_format=torch.channels_last)
            from torch._functorch import config as functorch

            functorch.donated_buffer = False  # gradients of single terms go through the graph again
            if self.device.type == "cpu":
                torch.use_deterministic_algorithms(True, warn_only=True)
                setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  typed as a module; a debugging aid, and slow
            if hasattr(functorch, "force_non_lazy_backward_lowering"):  # not in torch 2.9
                functorch.force_non_lazy_backward_lowering = True  # a compiler then fails in a call, not in a gradient
            compile_parts(parts)
        return network

    def _compiles(self) -> bool:
        """Whether to compile; says in one line why not where it is asked for and cannot be."""
        if self.compile and (fault := compiler_fault(self.device)) is not None:
            log.warning(NO_COMPILER, fault)
            return False
        return self.compile


SMALL, LARGE = 4_000_000, 20_000_000  # weights
COMPILING_PAYS = 1000  # training steps of a small network; the first time takes half a minute on 2 cores
NO_COMPILER = "compute.compile: no working compiler (%s), going on without"


COMPILED = caches.choose()  # before torch's compiler is loaded, which makes the folder that it then has


def compiler_fault(device: torch.device) -> str | None:
    """Why networks cannot be compiled for ``device`` here, None if they can; prepares torch's cache."""
    if (fault := caches.fault(Path(os.environ[caches.COMPILED]))) is not None:
        return fault
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = 64  # a block by batch size, with and without gradients and scales
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # CUDA that is installed without a GPU
    if device.type == "cpu":
        from torch._inductor import codecache, cpp_builder, exc

        # 150 MB of headers for each set of flags, which torch puts among temporary files wherever its cache is.
        setattr(codecache, "_HEADER_DIR", str(COMPILED / "headers"))  # noqa: B010  a private name, which may go
        setattr(codecache, "_HEADER_LOCK_DIR", str(COMPILED / "headers/locks"))  # noqa: B010
        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            return "no C++ compiler such as g++ is installed"
    return None


def compile_parts(parts: list[nn.Module]) -> None:
    """Compiles ``parts`` in place, at their first call; where the compiler fails, all go on without, with one warning.

    A missing compiler is known before; a full disk or no room for temporary files shows when it is at work.
    """
    for part in parts:
        part.compile(dynamic=False)
        part._compiled_call_impl = _with_fallback(part, parts)


def _with_fallback(part: nn.Module, parts: list[nn.Module]) -> Callable[..., Any]:
    """The compiled ``part``, and what it is without its compiler."""
    from torch._dynamo.exc import TorchDynamoException

    compiled = part._compiled_call_impl
    assert compiled is not None

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except (TorchDynamoException, OSError) as error:
            log.warning(NO_COMPILER, _said(error))
            for one in parts:
                one._compiled_call_impl = None
        return part(*args, **kwargs)

    return call


def _said(error: BaseException) -> str:
    """What a compiler complains of, out of the whole command and its output."""
    text = str(error)
    found = re.search(r"(?:fatal )?error: [^\n]*|No space left on device", text)
    return reason(OSError(found[0])) if found else type(error).__name__


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
    if device == "cpu":
        keep_freed_memory()
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local))
    processes = distributed.process_group(device)
    place = torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if precision == "auto":
        precision = "bf16" if computes_bf16(place) else "fp32"
    elif precision == "bf16" and not computes_bf16(place):
        log.warning("compute.precision: bf16 gains nothing on this %s, or is emulated; auto takes fp32 here", device)
    return Machine(place, "bf16" if precision == "bf16" else "fp32", compile, processes)
