"""What the tests of S3 share: small instances, and the objective as it is written."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ims3core.base.seeds import generator

WEIGHTS = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": "paper"}
BLOCKWISE = 0  # max_matrix_bytes that no matrix fits


def random_instance(classes: int, groups: int, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Group centroids scattered around real centroids that are themselves close to each other."""
    noise = generator(seed, "test-s3", classes, groups, dim)
    real = normalize(1 + torch.randn(classes, dim, generator=noise), dim=-1)
    scatter = torch.randn(classes, groups, dim, generator=noise)
    return normalize(real[:, None] + 0.7 * scatter, dim=-1), real


def slow_objective(groups, real, choice, *, alpha, beta, eps, normalisation) -> float:
    """Eq. 10 as written, one logarithm at a time."""
    chosen = [groups[i, g].double() for i, g in enumerate(choice)]
    classes = len(chosen)

    def log_d(u: Tensor, v: Tensor) -> float:
        cosine = (u @ v / (u.norm() * v.norm())).item()
        return math.log(1 - max(-1.0, min(1.0, cosine)) + eps)

    closeness = sum(log_d(chosen[i], real[i].double()) for i in range(classes))
    if classes == 1:
        return alpha * closeness
    if normalisation == "paper":
        ordered = sum(log_d(chosen[i], chosen[j]) for i in range(classes) for j in range(classes) if i != j)
        return alpha * closeness - beta / (classes - 1) * ordered
    return alpha * closeness - beta * sum(log_d(chosen[i], chosen[j]) for j in range(classes) for i in range(j))
