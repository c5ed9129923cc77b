"""Pixels whose training gradients match those of real images, layer by layer (IDC-1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ims3core.axes.refinements import Matching, Start, check_finite
from ims3core.base.schema import Count, Decay, Index, Positive

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from ims3core.students.network_pool import RealTask


class GradientMatching(Matching):
    """SGD on the pixels; each outer iteration begins with another network, trained a little on real images."""

    outer: Count = Field(description="networks (IDC: 500)")
    inner: Count = Field(description="steps of the images on each network (IDC: 100)")
    pretrain_steps: Index = Field(description="steps of a network on real images before the first of these")
    train_steps: Index = Field(description="steps of a network on real images after each of these")
    network_lr: Positive = Field(description="learning rate of the networks, SGD (IDC: 0.01)")
    lr: Positive = Field(
        description="learning rate of the pixels, SGD, times IPC / 10 and (side / 224) squared (IDC: 0.003)"
    )
    momentum: Decay = Field(description="momentum of the pixels")
    chosen_batch: Count = Field(description="images of the set per class and step (IDC: 128)")
    distance: Literal["l1", "squared"] = Field(
        description="of gradients, summed over all weights: absolute or squared differences (IDC: l1; squared for the "
        "images of CIFAR-10 and SVHN)"
    )

    def passes(self, sets: list[int], classes: int) -> dict[str, float]:
        """Gradients of real images cost three passes, those of chosen ones, which are differentiated, about seven."""
        images = 0
        for ipc in sets:
            chosen = min(ipc * self.tiles, self.chosen_batch)
            images += self.outer * self.inner * classes * (3 * self.real_batch + 7 * chosen)
            images += 3 * 64 * self.outer * (self.pretrain_steps + self.inner * self.train_steps)
        return {self.network: float(images)}

    def in_flight(self, ipc: int, classes: int, side: int) -> dict[str, tuple[int, int]]:
        """Gradients of all classes' images, which are differentiated, wait for one backward pass: twice a pass."""
        return {self.network: (2 * classes * min(ipc * self.tiles, self.chosen_batch) + self.real_batch, 0)}

    def refine(self, start: Start) -> Tensor:
        import torch

        from ims3core.base.seeds import derive_seed, generator
        from ims3core.data.formation import formed
        from ims3core.students import pixels
        from ims3core.students.network_pool import BATCH
        from ims3core.students.optimisers import Optimiser
        from ims3core.students.plans import OptimiserSpec

        task, rows = start.real_task(self.network, self.options), start.rows()
        images = pixels.as_parameter(start.images, start.machine.device)
        real = pixels.RealBatches(start.real, start.classes, start.machine.device)
        lr = self.lr * len(images) / start.classes / 10 * (images.shape[-1] / 224) ** 2
        descend = torch.optim.SGD([images], lr=lr, momentum=self.momentum)
        start.shown(partial(pixels.as_images, images))
        for iteration in start.progress(range(self.outer * self.inner)):
            seed = derive_seed(start.seed, "iteration", iteration)
            if iteration % self.inner == 0:
                network = task.trained(self.pretrain_steps, lr=self.network_lr, seed=seed)
                train = Optimiser(network, OptimiserSpec(self.network_lr))
            loss = torch.zeros((), device=images.device)
            for c, positions in enumerate(rows):
                seen = formed(images[positions], self.factor)
                order = torch.randperm(len(seen), generator=generator(seed, "chosen", c))
                chosen = seen[order[: self.chosen_batch].to(images.device)]
                loss = loss + self._distance(task, network, (real(c, self.real_batch, seed), chosen), c, seed)
            check_finite(loss, iteration)
            descend.zero_grad()
            loss.backward(inputs=[images])
            descend.step()
            images.data.clamp_(0, 1)
            for n in range(self.train_steps):
                batch = torch.randint(len(start.real.images), (BATCH,), generator=generator(seed, "train", n))
                task.backward(network, batch, derive_seed(seed, "train-augment", n))
                train(self.network_lr)
        return pixels.as_images(images)

    def _distance(
        self, task: RealTask, network: nn.Module, batches: tuple[Tensor, Tensor], class_index: int, seed: int
    ) -> Tensor:
        """How far the gradients of the real images of a class are from those of its chosen ones, augmented alike.

        Image n of either as image n of the other; under DSA all of them have one transformation.
        """
        from ims3core.base.seeds import derive_seed
        from ims3core.students.warps import Alike

        view, siamese = derive_seed(seed, "augment", class_index), task.augment.dsa is not None
        views = [Alike([view], [len(batch)]) if siamese else view for batch in batches]
        images = [task.normalise(task.augmentation(*pair)) for pair in zip(batches, views, strict=True)]
        real, chosen = (
            layer_gradients(network, images[n], class_index, task.machine.autocast, differentiable=n == 1)
            for n in range(2)
        )
        return gradient_distance(real, chosen, self.distance)


def layer_gradients(
    network: nn.Module, images: Tensor, class_index: int, autocast: Callable[[], AbstractContextManager[object]], *,
    differentiable: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the cross-entropy over the convolutions of ``network``; biases, norms and the head are left out."""
    import torch

    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    labels = torch.full((len(images),), class_index, device=images.device)
    with autocast():
        logits = network(images).float()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return list(torch.autograd.grad(loss, weights, create_graph=differentiable))


def gradient_distance(real: list[Tensor], chosen: list[Tensor], distance: Literal["l1", "squared"]) -> Tensor:
    """The sum of the absolute or squared differences over all layers (IDC)."""
    import torch

    differences = (one.detach() - other for one, other in zip(real, chosen, strict=True))
    distances = ((part.abs() if distance == "l1" else part.square()).sum() for part in differences)
    return sum(distances, start=torch.zeros(()))
