"""Modes of a class's latents: one k-means cluster for each image (MGD3, D4M)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ims3core.params import schema
from ims3core.shell.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GIVES = "targets"
PER_IPC = True
NETWORK = False


class Section(schema.Section):
    finder: Literal["centre", "nearest", "random"]
    restarts: schema.Count


def prepare(latents: Tensor, denoiser: None, label: int, *, finder: str, restarts: int) -> dict[str, Tensor]:
    """The latents themselves: how many clusters there are is known only with the IPC."""
    return {"latents": latents}


def start(
    prepared: dict[str, Tensor], ipc: int, generator: torch.Generator, *, finder: str, restarts: int
) -> Tensor:  # fmt: skip
    """``ipc`` modes: the centres of scikit-learn's k-means, the real latents nearest to them, or random latents.

    Raises:
        DataError: the class has fewer latents than ``ipc``.
    """
    import torch

    latents = prepared["latents"]
    if len(latents) < ipc:
        raise DataError(f"guide modes: a class has {len(latents)} training images, wanted at least IPC {ipc}")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    if finder == "random":
        return latents[torch.randperm(len(latents), generator=generator)[:ipc]]
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    flat = latents.flatten(1).double()
    with threadpool_limits(limits=1):  # sums in another order would move the centres by their last bits
        found = KMeans(ipc, n_init=restarts, random_state=seed).fit(flat.numpy())
    centres = torch.from_numpy(found.cluster_centers_)
    if finder == "nearest":
        return latents[torch.cdist(centres, flat).argmin(1)]
    return centres.float().view(ipc, *latents.shape[1:])


def calls(images: int, *, finder: str, restarts: int) -> int:
    """The network is not asked."""
    return 0
