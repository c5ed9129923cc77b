"""Pixels whose training gradients match those of real images, layer by layer (IDC-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ims3core.params import schema
from ims3core.refinements import Start, check_finite

if TYPE_CHECKING:
    from torch import Tensor, nn

READS = "data/real/train"


class Section(schema.Section):
    network: str
    outer: schema.Count
    inner: schema.Count
    pretrain_steps: schema.Index
    train_steps: schema.Index
    network_lr: schema.Positive
    lr: schema.Positive
    momentum: schema.Decay
    real_batch: schema.Count
    chosen_batch: schema.Count


def passes(
    sets: list[int], classes: int, *, network: str, outer: int, inner: int, pretrain_steps: int, train_steps: int,
    real_batch: int, chosen_batch: int, **other: Any,
) -> dict[str, float]:  # fmt: skip
    """Gradients of real images cost three passes, those of chosen ones, which are differentiated, about seven."""
    found = 0
    for ipc in sets:
        found += outer * inner * classes * (3 * real_batch + 7 * min(ipc, chosen_batch))
        found += 3 * 64 * outer * (pretrain_steps + inner * train_steps)
    return {network: float(found)}


def refine(
    start: Start, *, network: str, outer: int, inner: int, pretrain_steps: int, train_steps: int, network_lr: float,
    lr: float, momentum: float, real_batch: int, chosen_batch: int,
) -> Tensor:  # fmt: skip
    """SGD on the pixels; each outer iteration begins with another network, trained a little on real images.

    The image rate is ``lr`` times IPC / 10 times (side / 224) squared, as in IDC.
    """
    import torch

    from ims3core.base.seeds import derive_seed, generator
    from ims3core.students import pixels
    from ims3core.students.optimisers import optimiser
    from ims3core.students.protocols import plan

    chosen, device, autocast = start.chosen, start.machine.device, start.machine.autocast
    classes = int(start.labels.numel())
    images = pixels.as_parameter(chosen.images, device)
    rows = [torch.nonzero(chosen.class_index == c).flatten().to(device) for c in range(classes)]
    real, normalise = pixels.RealBatches(start.real, classes, device), pixels.normaliser(start.statistics, device)
    augment = pixels.differentiable_augmentation(start.augment, images)
    scaled = lr * len(images) / classes / 10 * (images.shape[-1] / 224) ** 2
    step = torch.optim.SGD([images], lr=scaled, momentum=momentum)
    rules = plan(
        ipc=1, classes=classes, images=len(start.real.images), epochs=None, steps=1, batch_size=64, lr=network_lr,
        momentum=0.9, weight_decay=5e-4, schedule="constant", cutmix=0.0, evaluations=1,
    )  # fmt: skip
    for iteration in start.progress(range(outer * inner)):
        seed = derive_seed(start.seed, "iteration", iteration)
        if iteration % inner == 0:
            judge = pixels.briefly_trained(
                network, start.real, classes=classes, steps=pretrain_steps, batch_size=64, lr=network_lr, seed=seed,
                augment=start.augment, statistics=start.statistics, machine=start.machine,
            )  # fmt: skip
            descend = optimiser(judge, rules)
        loss = torch.zeros((), device=device)
        for c in range(classes):
            own = rows[c][
                torch.randperm(len(rows[c]), generator=generator(seed, "chosen", c))[:chosen_batch].to(device)
            ]
            aug = derive_seed(seed, "augment", c)
            batches = (augment(real(c, real_batch, seed), aug), augment(images[own], aug))
            theirs, ours = (
                layer_gradients(judge, normalise(batch), c, autocast, differentiable=n == 1)
                for n, batch in enumerate(batches)
            )
            loss = loss + gradient_distance(theirs, ours)
        check_finite(loss, iteration)
        step.zero_grad()
        loss.backward(inputs=[images])
        step.step()
        images.data.clamp_(0, 1)
        for n in range(train_steps):
            batch = torch.randint(len(start.real.images), (64,), generator=generator(seed, "train", n))
            x = augment(start.real.images[batch].to(device).float() / 255, derive_seed(seed, "train-augment", n))
            with autocast():
                found = judge(normalise(x)).float()
            torch.nn.functional.cross_entropy(found, start.real.class_index[batch].to(device)).backward()
            descend(network_lr)
    return pixels.as_images(images)


def layer_gradients(
    network: nn.Module, images: Tensor, class_index: int, autocast, *, differentiable: bool
) -> list[Tensor]:  # fmt: skip
    """Gradients of the cross-entropy over the convolutions of ``network``; biases, norms and the head are left out."""
    import torch

    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    labels = torch.full((len(images),), class_index, device=images.device)
    with autocast():
        found = network(images).float()
    loss = torch.nn.functional.cross_entropy(found, labels)
    return list(torch.autograd.grad(loss, weights, create_graph=differentiable))


def gradient_distance(theirs: list[Tensor], ours: list[Tensor]) -> Tensor:
    """The sum over layers of the mean absolute difference times the number of filters' inputs (L1; IDC)."""
    return sum((a.detach() - b).abs().sum() for a, b in zip(theirs, ours, strict=True))
