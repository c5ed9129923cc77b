"""One process or many: who does what, and how results meet (accelerate; gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from ims3core.shell.errors import ParameterError


class Team:
    """The processes that run one stage together; alone, every method is free.

    Attributes:
        rank: number of this process, 0 leads.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def mine(self, count: int) -> range:
        """The pieces of work, of ``count`` in all, that this process does."""
        return range(self.rank, count, self.size)

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            _state().wait_for_everyone()

    def add_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces every tensor by its sum over the processes, in one message."""
        if self.size == 1 or not tensors:
            return
        _state()
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """The equally large tensors of all processes, joined along the first dimension in the order of ranks."""
        if self.size == 1:
            return tensor
        _state()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def share(self, value: Any) -> Any:
        """The leader's ``value``, in every process."""
        if self.size == 1:
            return value
        box = [value]
        _state()
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def agree(self, value: str, what: str) -> None:
        """Raises a ParameterError in every process unless all hold the same ``value``."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        _state()
        torch.distributed.all_gather_object(found, value)
        if other := [rank for rank, theirs in enumerate(found) if theirs != found[0]]:
            raise ParameterError(
                f"{what}: process {other[0]} of {self.size} has {found[other[0]]}, process 0 has {found[0]}; "
                "all must run with the same parameters, inputs and code"
            )


def team(device: str) -> Team:
    """The processes of this run, as the launcher (accelerate, torchrun, SLURM's srun through them) describes them.

    Args:
        device: where their tensors are, ``cpu`` (they meet through gloo) or ``cuda`` (NCCL).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return Team() if size == 1 else Team(_state(cpu=device == "cpu").process_index, size)


def _state(**first: bool) -> Any:
    """accelerate's view of the processes, one for all; the ``first`` call connects them."""
    from accelerate import PartialState

    return PartialState(**first)
