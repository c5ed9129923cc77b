"""The optimisers of students, in torch's functional form: an optimiser object would import torch's compiler.

That import took 1.6 s on 2 cores with torch 2.14 (1 to 3 s elsewhere), as long as a small student trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from ims3core.students.plans import OptimiserSpec

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


def optimiser(network: nn.Module, spec: OptimiserSpec) -> Callable[[float], None]:
    """A function that takes one step at a learning rate on the weights of ``network`` and forgets gradients."""
    groups: dict[float, list[Tensor]] = {}
    for weight in network.parameters():
        decay = spec.weight_decay if weight.ndim > 1 or not spec.decay_matrices_only else 0.0
        groups.setdefault(decay, []).append(weight)
    take: _Sgd | _AdamW = _Sgd(spec.momentum) if spec.name == "sgd" else _AdamW()

    @torch.no_grad()
    def step(lr: float) -> None:
        for decay, weights in groups.items():
            used = [weight for weight in weights if weight.grad is not None]
            take(used, [weight.grad for weight in used if weight.grad is not None], lr, decay)
            for weight in used:
                weight.grad = None

    return step


class _Sgd:
    """SGD with momentum."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.buffers: dict[Tensor, Tensor] = {}

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], lr: float, decay: float) -> None:
        buffers: list[Tensor | None] = [self.buffers.setdefault(weight, torch.zeros_like(weight)) for weight in weights]
        sgd(
            weights, gradients, buffers, fused=True, lr=lr, momentum=self.momentum, weight_decay=decay, dampening=0.0,
            nesterov=False, maximize=False,
        )  # fmt: skip


class _AdamW:
    """AdamW (Loshchilov & Hutter 2019) with betas 0.9 and 0.999."""

    def __init__(self) -> None:
        self.state: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], lr: float, decay: float) -> None:
        for weight in weights:
            if weight not in self.state:
                count = torch.zeros((), dtype=torch.float32, device=weight.device)
                self.state[weight] = (torch.zeros_like(weight), torch.zeros_like(weight), count)
        means, squares, counts = ([self.state[weight][n] for weight in weights] for n in range(3))
        adamw(
            weights, gradients, means, squares, [], counts, fused=True, amsgrad=False, beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1], lr=lr, weight_decay=decay, eps=ADAM_EPS, maximize=False,
        )  # fmt: skip
