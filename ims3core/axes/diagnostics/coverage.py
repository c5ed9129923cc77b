"""How well images cover the real ones in feature space, and how far they are from the classes' boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ims3core.axes.diagnostics import Diagnostic
from ims3core.base.schema import Count
from ims3core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2048  # points whose distances to all others are in memory
TIE = 1e-9  # of a radius: a real image that is the k-th neighbour of another lies on its ball, not in it


class Coverage(Diagnostic):
    """Precision, recall, density and coverage in the encoder's space.

    Precision and recall are those of Kynkäänniemi et al. (2019), density and coverage those of Naeem et al. (2020).
    """

    k: Count = Field(description="nearest neighbours that make a ball")
    real_images: Count = Field(description="at most so many real images are compared with")

    def reference(self, real: Tensor) -> Tensor:
        """At most ``real_images`` of the features ``real`` (N, dim), evenly spaced."""
        import torch

        count = min(len(real), self.real_images)
        return real[torch.arange(count) * len(real) // count]

    def radii(self, real: Tensor) -> Tensor:
        """Radius (N,) of the ball around every one of ``real`` (N, dim)."""
        return radii(real, self.k)

    def measure(self, real: Tensor, fake: Tensor, real_radii: Tensor) -> dict[str, float]:
        """Precision, recall, density and coverage of ``fake`` (M, dim) over ``real`` (N, dim) with its :meth:`radii`.

        precision: share of fake points in a ball around a real one that reaches its k-th neighbour; density: how many
        such balls, divided by k; coverage: share of real balls with a fake point in them; recall: share of real points
        in a ball around a fake one, with fewer neighbours than k where there are fewer fake points.
        """
        distance = _distances(real, fake)
        inside = distance < real_radii[:, None]  # (N, M)
        measures = {
            "precision": inside.any(0).float().mean().item(),
            "density": inside.float().sum(0).mean().item() / self.k,
            "coverage": inside.any(1).float().mean().item(),
            "recall": float("nan"),
        }
        if len(fake) > 1:
            fake_radii = radii(fake, min(self.k, len(fake) - 1))
            measures["recall"] = (distance < fake_radii[None]).any(1).float().mean().item()
        return measures


def radii(features: Tensor, k: int) -> Tensor:
    """Distance (N,) of every point of ``features`` (N, dim) to its ``k``-th nearest other point, less :data:`TIE`."""
    import torch

    if len(features) <= k:
        raise DataError(f"coverage.k: found {k}, {len(features)} images have too few neighbours; wanted less")
    nearest = [_distances(block, features).kthvalue(k + 1, dim=1).values for block in features.split(BLOCK)]
    return torch.cat(nearest) * (1 - TIE)


def boundary_distance(features: Tensor, class_index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Distance (N,) to the nearest boundary of its class of a linear head, negative on the wrong side.

    Args:
        features: (N, dim), the inputs of the head.
        weight, bias: of the head, (classes, dim) and (classes,).
    """
    import torch

    logits = features @ weight.T + bias
    margin = logits.gather(1, class_index[:, None]) - logits
    apart = torch.cdist(weight, weight)[class_index]  # (N, classes)
    distance = margin / apart.clamp_min(1e-12)
    distance.scatter_(1, class_index[:, None], torch.inf)
    return distance.min(1).values


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distances (N, M) by a matrix product, ten times faster than by differences; float64 keeps it exact."""
    import torch

    return torch.cdist(one.double(), other.double())
