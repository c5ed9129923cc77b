"""The optimisers of students, in torch's functional form: an optimiser object would import torch's compiler.

That import took 1.6 s on 2 cores with torch 2.14 (1 to 3 s elsewhere), as long as a small student trains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from ims3core.students.plans import OptimiserSpec

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


class Optimiser:
    """Takes one step at a learning rate on the weights of a network and forgets gradients."""

    def __init__(self, network: nn.Module, spec: OptimiserSpec) -> None:
        self._weights = dict(network.named_parameters())
        self._groups: dict[float, list[Tensor]] = {}
        for weight in self._weights.values():
            decay = spec.weight_decay if weight.ndim > 1 or not spec.decay_matrices_only else 0.0
            self._groups.setdefault(decay, []).append(weight)
        self._take: _Sgd | _AdamW = _Sgd(spec.momentum) if spec.name == "sgd" else _AdamW()

    @torch.no_grad()
    def __call__(self, lr: float) -> None:
        for decay, weights in self._groups.items():
            used = [weight for weight in weights if weight.grad is not None]
            self._take(used, [weight.grad for weight in used if weight.grad is not None], lr, decay)
            for weight in used:
                weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """What it remembers of earlier steps, ``<number>.<name of the weight>``."""
        kept = self._take.buffers
        return {
            f"{number}.{name}": buffer
            for name, weight in self._weights.items() for number, buffer in enumerate(kept.get(weight, ()))
        }  # fmt: skip

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`state` returned."""
        for name, weight in self._weights.items():
            if f"0.{name}" in tensors:
                buffers = self._take.buffers[weight] = self._take.fresh(weight)
                for number, buffer in enumerate(buffers):
                    buffer.copy_(tensors[f"{number}.{name}"])


class _Sgd:
    """SGD with momentum."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.buffers: dict[Tensor, tuple[Tensor, ...]] = {}

    def fresh(self, weight: Tensor) -> tuple[Tensor, ...]:
        """What is remembered of a weight before its first step."""
        return (torch.zeros_like(weight),)

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], lr: float, decay: float) -> None:
        for weight in weights:
            if weight not in self.buffers:
                self.buffers[weight] = self.fresh(weight)
        buffers: list[Tensor | None] = [self.buffers[weight][0] for weight in weights]
        sgd(
            weights, gradients, buffers, fused=True, lr=lr, momentum=self.momentum, weight_decay=decay, dampening=0.0,
            nesterov=False, maximize=False,
        )  # fmt: skip


class _AdamW:
    """AdamW (Loshchilov & Hutter 2019) with betas 0.9 and 0.999."""

    def __init__(self) -> None:
        self.buffers: dict[Tensor, tuple[Tensor, ...]] = {}

    def fresh(self, weight: Tensor) -> tuple[Tensor, ...]:
        """What is remembered of a weight before its first step: two moments and the count of steps."""
        count = torch.zeros((), dtype=torch.float32, device=weight.device)
        return torch.zeros_like(weight), torch.zeros_like(weight), count

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], lr: float, decay: float) -> None:
        for weight in weights:
            if weight not in self.buffers:
                self.buffers[weight] = self.fresh(weight)
        means, squares, counts = ([self.buffers[weight][n] for weight in weights] for n in range(3))
        adamw(
            weights, gradients, means, squares, [], counts, fused=True, amsgrad=False, beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1], lr=lr, weight_decay=decay, eps=ADAM_EPS, maximize=False,
        )  # fmt: skip
