"""One process or many: who does what, and how results meet (accelerate; gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ims3core.errors import ParameterError

if TYPE_CHECKING:
    import torch


class ProcessGroup:
    """The processes that run one stage together; alone, every method is free.

    Attributes:
        rank: number of this process; 0 is the main one.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @staticmethod
    def launched() -> bool:
        """Whether this process is one of several that a launcher started."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that locks, writes outputs and logs for all."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """The numbers, of ``count`` pieces of work, that this process does."""
        return range(self.rank, count, self.size)

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            _state().wait_for_everyone()

    def all_reduce(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces every tensor by its sum over the processes, in one message."""
        if self.size == 1 or not tensors:
            return
        import torch

        _state()
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The equally large tensors of all processes, joined along the first dimension in the order of ranks."""
        if self.size == 1:
            return tensor
        import torch

        _state()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: Any) -> Any:
        """The main process' ``value``, in every process."""
        if self.size == 1:
            return value
        import torch

        box = [value]
        _state()
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def require_equal(self, value: str, what: str) -> None:
        """Raises a ParameterError in every process unless all hold the same ``value``."""
        if self.size == 1:
            return
        import torch

        found: list[Any] = [None] * self.size
        _state()
        torch.distributed.all_gather_object(found, value)
        if other := [rank for rank, theirs in enumerate(found) if theirs != found[0]]:
            raise ParameterError(
                f"{what}: process {other[0]} of {self.size} has {found[other[0]]}, process 0 has {found[0]}; "
                "all must run with the same parameters, inputs and code"
            )


def process_group(device: str) -> ProcessGroup:
    """The processes of this run, as the launcher (accelerate, torchrun, SLURM's srun through them) describes them.

    Args:
        device: where their tensors are, ``cpu`` (they meet through gloo) or ``cuda`` (NCCL).
    """
    if not ProcessGroup.launched():
        return ProcessGroup()
    return ProcessGroup(_state(cpu=device == "cpu").process_index, int(os.environ["WORLD_SIZE"]))


def _state(**first: bool) -> Any:
    """accelerate's view of the processes, one for all; the ``first`` call connects them."""
    from accelerate import PartialState

    return PartialState(**first)
