"""The optimisers of students, in torch's functional form: an optimiser object would import torch's compiler.

That import takes 1 to 3 seconds, as long as a small student trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from ims3core.students.protocols import Plan

ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


def optimiser(network: nn.Module, plan: Plan) -> Callable[[float], None]:
    """A function that takes one step at a given learning rate on the weights of ``network`` and forgets gradients."""
    groups: dict[float, list[nn.Parameter]] = {}
    for weight in network.parameters():
        decays = plan.weight_decay if weight.ndim > 1 or not plan.decay_matrices_only else 0.0
        groups.setdefault(decays, []).append(weight)
    take = {"sgd": _Sgd, "adamw": _AdamW}[plan.optimiser](plan)

    @torch.no_grad()
    def step(lr: float) -> None:
        for decay, weights in groups.items():
            used = [weight for weight in weights if weight.grad is not None]
            take(used, [weight.grad for weight in used], lr, decay)
            for weight in used:
                weight.grad = None

    return step


class _Sgd:
    """SGD with momentum."""

    def __init__(self, plan: Plan) -> None:
        self.momentum = plan.momentum
        self.buffers: dict[nn.Parameter, Tensor] = {}

    def __call__(self, weights: list[nn.Parameter], gradients: list[Tensor], lr: float, decay: float) -> None:
        buffers = [self.buffers.setdefault(weight, torch.zeros_like(weight)) for weight in weights]
        sgd(
            weights, gradients, buffers, fused=True, lr=lr, momentum=self.momentum, weight_decay=decay, dampening=0.0,
            nesterov=False, maximize=False,
        )  # fmt: skip


class _AdamW:
    """AdamW (Loshchilov & Hutter 2019) with betas 0.9 and 0.999."""

    def __init__(self, plan: Plan) -> None:
        self.state: dict[nn.Parameter, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, weights: list[nn.Parameter], gradients: list[Tensor], lr: float, decay: float) -> None:
        for weight in weights:
            if weight not in self.state:
                count = torch.zeros((), dtype=torch.float32, device=weight.device)
                self.state[weight] = (torch.zeros_like(weight), torch.zeros_like(weight), count)
        means, squares, counts = ([self.state[weight][n] for weight in weights] for n in range(3))
        adamw(
            weights, gradients, means, squares, [], counts, fused=True, amsgrad=False, beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1], lr=lr, weight_decay=decay, eps=ADAM_EPS, maximize=False,
        )  # fmt: skip
