"""S3 image by image: Eq. 10 over all sets instead of whole groups, on distributions instead of means (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.selections import Candidates, Choice, Selection, ungrouped
from ims3core.base.schema import Count, NonNegative, Positive
from ims3core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class S3Image(Selection):
    """A greedy start, then swaps of single images until none helps; every image is a candidate of its own."""

    needs_real_features = True

    alpha: NonNegative = Field(description="alpha, weight of closeness to the real images of the class (Eq. 10)")
    beta: NonNegative = Field(description="beta, weight of separation between classes (Eq. 10)")
    eps: Positive = Field(description="added to distances before the logarithm")
    normalisation: Literal["paper", "official"] = Field(
        description="paper: beta / (C - 1) over ordered pairs of classes; official: beta over unordered pairs (D12)"
    )
    kernel: Literal["linear", "gaussian"] = Field(
        description="of the distributions that are compared; linear: their means, as in s3"
    )
    bandwidth: Positive = Field(description="of the Gaussian kernel, in median distances between real features")
    frequencies: Count = Field(description="random Fourier features of the Gaussian kernel")
    max_sweeps: Count = Field(description="passes of swaps over the classes")

    def flops(self, *, real: int, candidates: int, dim: int) -> float:
        """Every feature is projected on every frequency."""
        return 2.0 * dim * self.frequencies * (real + candidates) if self.kernel == "gaussian" else 0.0

    def select(self, candidates: Candidates, *, ipc: int, seed: int, draw: int) -> Choice:
        from ims3core.s3 import images

        real = candidates.real()
        candidates.require(ipc, f"ipc {ipc}")
        for features, name in zip(candidates.features, candidates.names, strict=True):
            if len(features) > 1 and (features - features[:1]).abs().max() == 0:
                raise DataError(
                    f"class {name}: all {len(features)} candidates have the same features, nothing to choose from"
                )
        problem = images.make_problem(
            candidates.features, real, alpha=self.alpha, beta=self.beta, eps=self.eps,
            normalisation=self.normalisation, embed=self._embedding(real, seed),
        )  # fmt: skip
        search = images.choose(problem, ipc, max_sweeps=self.max_sweeps)
        value = search.objective.total
        bound = min(images.lower_bound(problem), value)
        report = {
            "objective": value, "bound": bound, "bound_kind": "cone", "gap": value - bound,
            "sweeps": search.sweeps, "converged": search.converged,
        }  # fmt: skip
        return ungrouped(search.chosen, report=report)

    def _embedding(self, real: list[Tensor], seed: int) -> Callable[[Tensor], Tensor]:
        """The map of features (n, dim) into the space where sets are compared by their means."""
        import torch

        from ims3core.base import seeds
        from ims3core.s3 import images

        if self.kernel == "linear":
            return torch.Tensor.float
        bandwidth = self.bandwidth * images.median_distance(torch.cat(real))
        noise = seeds.generator(seed, "s3-image-frequencies")
        return images.fourier_features(bandwidth, dim=real[0].shape[1], count=self.frequencies, generator=noise)
