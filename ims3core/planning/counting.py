"""FLOPs, weights and bytes of a network per image, counted without values.

Networks run as they are run in a stage, on tensors without values: torch's own counter counts the FLOPs, and the bytes
that are alive at once are added up as tensors come and go.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ims3core.diffusion import difffit
from ims3core.diffusion.dit import DEEP, DiT, DitConfig

BATCHES = 32, 64  # large enough for what images take to outweigh what weights take
Inputs = Callable[[int], tuple[torch.Tensor, ...]]
"""A batch of so many images, without values, as a network takes them."""


@dataclass(frozen=True)
class NetworkCosts:
    """What a network weighs, and what one image costs in it.

    Attributes:
        flops: of a forward pass, a multiply-add counts two.
        weights: how many there are.
        forward: bytes that an image takes beside the weights, at most, in a pass without gradients.
        backward: the same of a pass forward and back that trains the weights.
        through: the same of a pass forward and back through frozen weights; of a DiT with its DiffFit weights trained.
    """

    flops: float
    weights: float
    forward: float
    backward: float
    through: float


def count(build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool = True) -> NetworkCosts:
    """Runs a network without values, without and with gradients.

    Args:
        build: makes the network and the function of its inputs; where it has DiffFit weights, the frozen passes train
            these.
        precision: ``bf16`` runs under autocast.
        trained: whether anything trains its weights; else ``backward`` is ``through``.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        network, inputs = build()
        work = flops(network.eval(), *inputs(1))  # the counter does not know the fused attention of processors
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = network.to_empty(device="cpu")
        every = {name for name, _ in network.named_parameters()}
        some = {name for name, weight in network.named_parameters() if weight.requires_grad}

        def slope(names: set[str], *, back: bool) -> float:
            for name, weight in network.named_parameters():
                weight.requires_grad_(name in names)
            hooks = [
                weight.register_post_accumulate_grad_hook(_forget) for weight in network.parameters()
                if weight.requires_grad
            ]  # fmt: skip
            one, two = (_peak(network, inputs, precision, batch, back=back) for batch in BATCHES)
            for hook in hooks:
                hook.remove()
            return (two - one) / (BATCHES[1] - BATCHES[0])

        forward = slope(set(), back=False)
        through = slope(some if some != every else set(), back=True)
        backward = slope(every, back=True) if trained else through
    weights = sum(weight.numel() for weight in network.parameters())
    return NetworkCosts(work, weights, forward, backward, through)


def count_classifier(
    build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool = True
) -> NetworkCosts:  # fmt: skip
    """The costs of an encoder or a teacher, which is asked in fp32, and trained or looked through in ``precision``."""
    costs = count(build, precision, trained=trained)
    return costs if precision == "fp32" else replace(costs, forward=count(build, "fp32", trained=False).forward)


def count_decoder(
    build: Callable[[], tuple[nn.Module, Inputs]], precision: str, *, trained: bool
) -> NetworkCosts:  # fmt: skip
    """The costs of a VAE's decoder, which is asked and trained in fp32, and looked through in ``precision``."""
    costs = count(build, "fp32", trained=trained)
    return costs if precision == "fp32" else replace(costs, through=count(build, precision, trained=False).through)


def count_dit(config: DitConfig, gamma_fraction: float, recompute: bool, precision: str) -> NetworkCosts:
    """The costs of a DiT; those of a deep one follow from two shallow ones, because its blocks are alike."""

    def of_depth(depth: int) -> NetworkCosts:
        shallow = replace(config, depth=depth)
        return count(partial(_dit, shallow, gamma_fraction, recompute), precision)

    if config.depth <= DEEP:
        return of_depth(config.depth)
    one, two = (asdict(of_depth(depth)) for depth in (DEEP // 4, DEEP // 2))
    blocks = (config.depth - DEEP // 4) / (DEEP // 4)
    return NetworkCosts(**{name: one[name] + blocks * (two[name] - one[name]) for name in one})


def flops(network: nn.Module, *inputs: torch.Tensor) -> float:
    """FLOPs of one forward pass (a multiply-add counts two), by torch's counter on tensors without values."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return float(counter.get_total_flops())


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of tensors that are alive, of those made while it is open; ``peak`` is the most at once.

    Args:
        known: tensors that are there already and do not count.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0.0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._seen:
            self._seen.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _peak(network: nn.Module, inputs: Inputs, precision: str, batch: int, *, back: bool = False) -> float:
    """Most bytes alive during a pass of a batch, beside weights, their gradients and inputs."""
    tensors = [x.requires_grad_(back) if x.is_floating_point() else x for x in inputs(batch)]
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    known = [*network.parameters(), *network.buffers(), *tensors]
    with LiveBytes(known) as live, torch.set_grad_enabled(back), autocast:
        result = network(*tensors)
        if back:
            result.float().sum().backward()
    return live.peak


def _forget(weight: torch.Tensor) -> None:
    """Gradients of weights are as many as weights, whatever the batch: they would hide what an image takes."""
    weight.grad = None


def images_of(channels: int, side: int, batch: int) -> tuple[torch.Tensor, ...]:
    return (torch.zeros(batch, channels, side, side),)


def _dit(config: DitConfig, gamma_fraction: float, recompute: bool) -> tuple[nn.Module, Inputs]:
    """A DiT of which what DiffFit trains requires a gradient."""
    network = DiT(config)
    network.checkpoint_blocks = recompute
    difffit.add_scales(network, gamma_fraction)
    difffit.freeze_all_but_difffit(network)

    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        label = torch.zeros(batch, dtype=torch.int64)
        return *images_of(config.channels, config.side, batch), label, label

    return network, inputs
