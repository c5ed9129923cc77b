"""Training a classifier on a small labelled set, by classes or by a teacher, and scoring it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ims3core.base.seeds import derive_seed, generator
from ims3core.data import IndexedImages, batches, resized
from ims3core.shell.errors import NumericsError
from ims3core.students.augment import Augmentation
from ims3core.students.augment import cutmix as cutmix_batch
from ims3core.students.optimisers import optimiser
from ims3core.students.protocols import Plan

# Augmentation has a price per call that exceeds that of a few 8 px images, so the batches of many steps are
# augmented in one call of about this many values (4 MiB). Part of the seeding: changing it changes the images.
CHUNK_VALUES = 2**20

Images = Tensor | IndexedImages
Teacher = Callable[[Tensor], Tensor]


class Evaluation(NamedTuple):
    """A point of the training curve: steps done, mean training loss since the last point, accuracy in percent."""

    step: int
    train_loss: float
    top1: float


@dataclass(frozen=True, eq=False)
class StudentRun:
    """How a student was trained and scored.

    Attributes:
        curve: one point per evaluation; the last is at the end of the run.
        confusion: (classes, classes) int64 at the last evaluation, rows are true, columns predicted classes.
    """

    curve: list[Evaluation]
    confusion: Tensor

    @property
    def last_top1(self) -> float:
        """Accuracy in percent at the end of the run: the score."""
        return self.curve[-1].top1

    @property
    def best_top1(self) -> float:
        """Best accuracy in percent of all evaluations: chosen on the scored images, so not a score."""
        return max(point.top1 for point in self.curve)


def train_student(
    network: nn.Module,
    images: Images,
    class_index: Tensor,
    *,
    test_images: Images,
    test_class_index: Tensor,
    side: int,
    plan: Plan,
    augmentation: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    device: torch.device | str,
    precision: Literal["fp32", "bf16"],
    teacher: Teacher | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> StudentRun:
    """The training curve and last confusion matrix of ``network``, trained in place by ``plan``.

    The order of the images is drawn per epoch, CutMix per step, augmentation per chunk of steps, each from its own
    stream of ``seed``. The network is left on ``device`` in eval mode.

    Args:
        images, test_images: uint8 (N, C, S, S).
        side: what the network looks at; images of another size are resized, batch by batch.
        class_index, test_class_index: (N,) int64.
        mean, std: per channel, of images in [0, 1].
        precision: bf16 is autocast around the network, weights stay float32.
        teacher: gives the soft labels where the plan has a temperature; images (B, C, side, side) in [0, 1], augmented
            and mixed, to logits (B, classes). Labels depend on image, seed and step alone, so none is stored.
        on_progress: called after each step with the number of steps done.

    Raises:
        NumericsError: at the first step whose loss is not finite.
    """
    device = torch.device(device)
    network.to(device).train()
    normalise = _normalisation(mean, std, device)
    images, class_index = _resident(images, device), class_index.to(device)
    test_images, test_class_index = _resident(test_images, device), test_class_index.to(device)
    descend = optimiser(network, plan)
    curve: list[Evaluation] = []
    losses: list[float] = []

    def logits(batch: Tensor) -> Tensor:
        return _logits(network, normalise(batch), precision)

    for step, (batch, labels) in enumerate(_batches(images, class_index, side, plan, augmentation, seed)):
        mixed = _mixed(batch, labels, plan.cutmix, generator(seed, "cutmix", step))
        if plan.warm_statistics:
            with torch.no_grad():
                logits(mixed.images)
        loss = mixed.loss(logits) if plan.temperature is None else soft_loss(logits, teacher, mixed.images, plan)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise NumericsError(
                f"student: loss {losses[-1]} at step {step} of {plan.total_steps}, wanted a finite number "
                f"(lr {plan.lr_at(step):g}, seed {seed})"
            )
        loss.backward()
        descend(plan.lr_at(step))

        done = step + 1
        if done in plan.evaluation_steps:
            confusion = _confusion(network, test_images, test_class_index, side, normalise, plan, precision=precision)
            top1 = 100 * confusion.trace().item() / len(test_images)
            curve.append(Evaluation(done, sum(losses) / len(losses), top1))
            losses.clear()
        if on_progress is not None:
            on_progress(done)
    network.eval()
    return StudentRun(curve=curve, confusion=confusion)


class _Mixed(NamedTuple):
    """A batch after CutMix: classes weigh by their area; ``share`` 0 without it."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float

    def loss(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean cross-entropy."""
        found = logits(self.images)
        if not self.share:
            return F.cross_entropy(found, self.labels)
        own, other = F.cross_entropy(found, self.labels), F.cross_entropy(found, self.others)
        return (1 - self.share) * own + self.share * other


def _mixed(batch: Tensor, labels: Tensor, mixing: float, stream: torch.Generator) -> _Mixed:
    """The batch, with probability ``mixing`` after CutMix."""
    if torch.rand((), generator=stream).item() >= mixing:
        return _Mixed(batch, labels, labels, 0.0)
    mixed, partners, share = cutmix_batch(batch, stream=stream)
    return _Mixed(mixed, labels, labels[partners], share)


def soft_loss(logits: Callable[[Tensor], Tensor], teacher: Teacher, images: Tensor, plan: Plan) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, no factor of T squared (RDED)."""
    with torch.no_grad():
        wanted = F.softmax(teacher(images).float() / plan.temperature, dim=1)
    found = F.log_softmax(logits(images) / plan.temperature, dim=1)
    return F.kl_div(found, wanted, reduction="batchmean")


def _logits(network: nn.Module, batch: Tensor, precision: str) -> Tensor:
    """float32 logits; the network computes in bf16 where the precision says so."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return network(batch).float()


def _batches(
    images: Images,
    class_index: Tensor,
    side: int,
    plan: Plan,
    augmentation: Augmentation,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The augmented batch in [0, 1] and its classes for each step of the plan."""
    orders = islice(_orders(plan, seed), plan.total_steps)
    steps_per_chunk = max(1, CHUNK_VALUES // (plan.batch_size * images.shape[1] * side**2))
    for chunk_index in count():
        chunk = list(islice(orders, steps_per_chunk))
        if not chunk:
            return
        rows = torch.cat(chunk)
        batch = _unit(images[rows], side, class_index.device)
        augmented = augmentation(batch, derive_seed(seed, "augment", chunk_index))
        sizes = [len(part) for part in chunk]
        labels = class_index[rows.to(class_index.device)]
        yield from zip(augmented.split(sizes), labels.split(sizes), strict=True)


def _orders(plan: Plan, seed: int) -> Iterator[Tensor]:
    """Row numbers of one batch after another: each epoch is one permutation, its last batch may be smaller."""
    for epoch in count():
        yield from torch.randperm(plan.images, generator=generator(seed, "order", epoch)).split(plan.batch_size)


@torch.no_grad()
def _confusion(
    network: nn.Module,
    images: Images,
    class_index: Tensor,
    side: int,
    normalise: Callable[[Tensor], Tensor],
    plan: Plan,
    *,
    precision: str,
) -> Tensor:
    """(classes, classes) counts of true class (rows) by predicted class (columns), in eval mode."""
    network.eval()
    device, seen = class_index.device, round(side / plan.test_crop)
    margin = (seen - side) // 2
    found = []
    for batch in batches(images, plan.batch_size):
        whole = _unit(batch, seen, device)[:, :, margin : margin + side, margin : margin + side]
        found.append(_logits(network, normalise(whole), precision))
    network.train()
    logits = torch.cat(found)
    classes = logits.shape[1]
    cells = (class_index * classes + logits.argmax(1)).cpu()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def _resident(images: Images, device: torch.device) -> Images:
    """Images on ``device``; those that are decoded on demand stay in their files."""
    return images.to(device) if isinstance(images, Tensor) else images


def _unit(images: Tensor, side: int, device: torch.device) -> Tensor:
    """uint8 images as floats in [0, 1], at the network's size, on its device."""
    return resized(images.to(device), side).float() / 255


def _normalisation(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function (x - mean) / std for images (B, C, H, W)."""
    mean_, std_ = (torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1) for values in (mean, std))
    return lambda images: (images - mean_) / std_
