"""The coordinates of candidate images and the seeds they give; loads no torch."""

from __future__ import annotations

from typing import NamedTuple

from ims3core.base.seeds import derive_seed

REAL_DRAW = 0
EVERY_IPC = 0


class CandidateKey(NamedTuple):
    """The coordinates of one candidate; ``ipc`` is 0 where it serves every IPC, ``index`` counts within its class."""

    ipc: int
    draw: int
    class_index: int
    index: int  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here


def shard_name(keys: list[CandidateKey]) -> str:
    """The name of a shard in the workspace: what decides its content beside the fingerprint."""
    first = keys[0]
    return f"ipc{first.ipc}-draw{first.draw}-class{first.class_index}-index{first.index}-{len(keys)}.safetensors"


def candidate_seed(root_seed: int, noise_stream: str, draw: int, class_index: int, index: int) -> int:
    """The seed of one generated image."""
    return derive_seed(root_seed, f"candidate-{noise_stream}", draw, class_index, index)
