"""S3 image by image: Eq. 10 over all sets instead of whole groups, on distributions instead of means (ours)."""

from __future__ import annotations

from typing import Literal

from ims3core.params import schema
from ims3core.selections import Candidates, Choice, check_count
from ims3core.shell.errors import DataError

DETERMINISTIC = False
SOURCES = None
COMPARES = "real"


class Section(schema.Section):
    alpha: schema.NonNegative
    beta: schema.NonNegative
    eps: schema.Positive
    normalisation: Literal["paper", "official"]
    kernel: Literal["linear", "gaussian"]
    bandwidth: schema.Positive
    frequencies: schema.Count
    max_sweeps: schema.Count


def need(
    ipc: int, *, alpha: float, beta: float, eps: float, normalisation: str, kernel: str, bandwidth: float,
    frequencies: int, max_sweeps: int,
) -> None:  # fmt: skip
    """All there are: every image is a candidate of its own."""


def select(
    candidates: Candidates, *, ipc: int, seed: int, draw: int, alpha: float, beta: float, eps: float,
    normalisation: str, kernel: str, bandwidth: float, frequencies: int, max_sweeps: int,
) -> Choice:  # fmt: skip
    """Greedy start and swaps; ``bandwidth`` counts in median distances of the real features."""
    import torch

    from ims3core.base import seeds
    from ims3core.subgroups import images

    real = candidates.real()
    for own, name in zip(candidates.features, candidates.names, strict=True):
        check_count(len(own), ipc, name=name, reason=f"ipc {ipc}")
        if len(own) > 1 and (own - own[:1]).abs().max() == 0:
            raise DataError(f"class {name}: all {len(own)} candidates have the same features, nothing to choose from")
    embed = torch.Tensor.float
    if kernel == "gaussian":
        width = bandwidth * images.median_distance(torch.cat(real))
        embed = images.fourier_features(
            width, dim=real[0].shape[1], count=frequencies, generator=seeds.generator(seed, "s3-image-frequencies")
        )
    problem = images.make_problem(
        candidates.features, real, alpha=alpha, beta=beta, eps=eps, normalisation=normalisation, embed=embed
    )
    found = images.choose(problem, ipc, max_sweeps=max_sweeps)
    value, bound = found.objective, images.lower_bound(problem)
    bound = min(bound, value.total)
    report = {
        "objective": value.total, "bound": bound, "bound_kind": "cone", "gap": value.total - bound,
        "sweeps": found.sweeps, "converged": found.converged,
    }  # fmt: skip
    return Choice(found.chosen, [None] * len(found.chosen), report)
