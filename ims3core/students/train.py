"""Training a classifier on a small labelled set, by classes or by a teacher, and scoring it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ims3core.base.compute import Machine
from ims3core.base.seeds import derive_seed, generator
from ims3core.data import ImageSet, batches, resized, unit
from ims3core.errors import NumericsError, ParameterError
from ims3core.students import pixels
from ims3core.students.augment import cutmix as cutmix_batch
from ims3core.students.optimisers import Optimiser
from ims3core.students.plans import Plan
from ims3core.students.warps import Augmentation, Statistics

# Augmentation has a price per call that exceeds that of a few 8 px images, so the batches of many steps are
# augmented in one call of about this many values (4 MiB). Part of the seeding: changing it changes the images.
CHUNK_VALUES = 2**20

Logits = Callable[[Tensor], Tensor]


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


@dataclass(frozen=True)
class TrainingSetup:
    """How a network is trained and scored: everything but the images and the seed.

    Attributes:
        augmentation: of images (B, C, side, side) in [0, 1].
        statistics: mean and std per channel of the training images in [0, 1].
        side: what the network looks at; images of another size are resized, batch by batch.
        machine: under its precision bf16 the network is autocast, weights stay float32.
        teacher: gives the soft labels where the plan has a temperature: images (B, C, side, side) in [0, 1], augmented
            and mixed, to logits (B, classes). Labels depend on image, seed and step alone, so none is stored.
        by_batch: whether the augmentation of an image depends on the batch it is in, so that each goes alone (DSA).

    Raises:
        ParameterError: a temperature without a teacher, or the other way round.
    """

    plan: Plan
    augmentation: Augmentation
    statistics: Statistics
    side: int
    machine: Machine
    teacher: Logits | None = None
    by_batch: bool = False

    def __post_init__(self) -> None:
        if (self.plan.temperature is None) != (self.teacher is None):
            raise ParameterError("soft labels take a temperature and a teacher, found one of them only")


class State:
    """What a training changes: the network, what its optimiser remembers, and the record.

    Attributes:
        step: steps done.
        curve, confusion: as in :class:`StudentRun`.
        losses: since the last evaluation.
    """

    def __init__(self, network: nn.Module, setup: TrainingSetup) -> None:
        self.network = network.to(setup.machine.device)
        self.optimiser = Optimiser(network, setup.plan.optimiser)
        self.step = 0
        self.curve: list[Evaluation] = []
        self.losses: list[float] = []
        self.confusion = torch.zeros(0, 0, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors; numbers as float64 and int64, so that none is rounded."""
        record = {
            "step": torch.tensor(self.step), "curve": torch.tensor(self.curve, dtype=torch.float64).view(-1, 3),
            "losses": torch.tensor(self.losses, dtype=torch.float64), "confusion": self.confusion,
        }  # fmt: skip
        network = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return record | network | {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`tensors` returned."""
        self.step, self.losses, self.confusion = int(tensors["step"]), tensors["losses"].tolist(), tensors["confusion"]
        self.curve = [Evaluation(int(step), loss, top1) for step, loss, top1 in tensors["curve"].tolist()]
        for place, load in (("network.", self.network.load_state_dict), ("optimiser.", self.optimiser.load)):
            load({name.removeprefix(place): value for name, value in tensors.items() if name.startswith(place)})


def train_student(
    network: nn.Module, images: ImageSet, held_out: ImageSet, setup: TrainingSetup, *, seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> StudentRun:  # fmt: skip
    """The training curve and last confusion matrix of ``network``, trained in place as :func:`train` does.

    Args:
        held_out: what it is scored on.
        on_progress: called after each step with the number of steps done.
    """
    state = State(network, setup)
    for current in train(state, images, held_out, setup, seed=seed):
        if on_progress is not None:
            on_progress(current.step)
    return StudentRun(curve=state.curve, confusion=state.confusion)


def train(state: State, images: ImageSet, held_out: ImageSet, setup: TrainingSetup, *, seed: int) -> Iterator[State]:
    """Trains the network of ``state`` on ``images``, from its step to the last of the plan; yields it after every step.

    The order of the images is drawn per epoch, CutMix per step, augmentation per chunk of steps, each from its own
    stream of ``seed``: a training that goes on from a step ends with the bytes of one that was never interrupted. The
    network is left on its device in eval mode.

    Args:
        held_out: what it is scored on.

    Raises:
        NumericsError: at the first step whose loss is not finite.
    """
    plan, network, device = setup.plan, state.network, setup.machine.device
    network.train()
    normalise = pixels.Normaliser(*setup.statistics).to(device)
    images, held_out = _resident(images, device), _resident(held_out, device)

    def logits(batch: Tensor) -> Tensor:
        normalised = normalise(batch)
        with setup.machine.autocast():
            return network(normalised).float()

    for step, (batch, labels) in enumerate(_batches(images, setup, seed, state.step), state.step):
        mixed = _mixed(batch, labels, plan.cutmix, generator(seed, "cutmix", step))
        if plan.batchnorm_warmup:
            with torch.no_grad():
                logits(mixed.images)
        loss = _loss(logits, mixed, setup)
        state.losses.append(loss.item())
        if not math.isfinite(state.losses[-1]):
            raise NumericsError(
                f"student: loss {state.losses[-1]} at step {step} of {plan.total_steps}, wanted a finite number "
                f"(lr {plan.lr_at(step):g}, seed {seed})"
            )
        loss.backward()
        state.optimiser(plan.lr_at(step))

        state.step = step + 1
        if state.step in plan.evaluation_steps:
            network.eval()
            state.confusion = _confusion(logits, held_out, setup)
            network.train()
            top1 = 100 * state.confusion.trace().item() / len(held_out.images)
            state.curve.append(Evaluation(state.step, sum(state.losses) / len(state.losses), top1))
            state.losses.clear()
        yield state
    network.eval()


class _Mixed(NamedTuple):
    """A batch after CutMix: classes weigh by their area; ``share`` 0 without it."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float


def _mixed(batch: Tensor, labels: Tensor, mixing: float, stream: torch.Generator) -> _Mixed:
    """The batch, with probability ``mixing`` after CutMix."""
    if torch.rand((), generator=stream).item() >= mixing:
        return _Mixed(batch, labels, labels, 0.0)
    mixed, partners, share = cutmix_batch(batch, stream=stream)
    return _Mixed(mixed, labels, labels[partners], share)


def _loss(logits: Logits, batch: _Mixed, setup: TrainingSetup) -> Tensor:
    """Mean cross-entropy of the classes; with a teacher KL(softmax(teacher / T) || softmax(student / T)).

    The latter is the mean over the batch, without a factor of T squared (RDED).
    """
    temperature = setup.plan.temperature
    if setup.teacher is not None and temperature is not None:
        with torch.no_grad():
            target = F.softmax(setup.teacher(batch.images).float() / temperature, dim=1)
        return F.kl_div(F.log_softmax(logits(batch.images) / temperature, dim=1), target, reduction="batchmean")
    values = logits(batch.images)
    if not batch.share:
        return F.cross_entropy(values, batch.labels)
    first, other = F.cross_entropy(values, batch.labels), F.cross_entropy(values, batch.others)
    return (1 - batch.share) * first + batch.share * other


def _batches(images: ImageSet, setup: TrainingSetup, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The augmented batch in [0, 1] and its classes for each step of the plan from ``first`` on."""
    plan, side, device = setup.plan, setup.side, images.class_index.device
    fitting = 1 if setup.by_batch else CHUNK_VALUES // (plan.batch_size * images.images.shape[1] * side**2)
    steps_per_chunk = max(1, fitting)
    first_chunk, done = divmod(first, steps_per_chunk)  # a chunk that was begun is augmented whole once more
    orders = islice(_orders(plan, seed, first - done), plan.total_steps - (first - done))
    for chunk_index in count(first_chunk):
        chunk = list(islice(orders, steps_per_chunk))
        if not chunk:
            return
        rows = torch.cat(chunk)
        batch = unit(resized(images.images[rows].to(device), side))
        augmented = setup.augmentation(batch, derive_seed(seed, "augment", chunk_index))
        sizes = [len(part) for part in chunk]
        labels = images.class_index[rows.to(device)]
        yield from islice(zip(augmented.split(sizes), labels.split(sizes), strict=True), done, None)
        done = 0


def _orders(plan: Plan, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Row numbers of one batch after another from step ``first`` on: each epoch is one permutation.

    The last batch of an epoch may be smaller.
    """
    first_epoch, done = divmod(first, plan.steps_per_epoch)
    for epoch in count(first_epoch):
        order = torch.randperm(plan.images, generator=generator(seed, "order", epoch))
        yield from order.split(plan.batch_size)[done:]
        done = 0


@torch.no_grad()
def _confusion(logits: Logits, held_out: ImageSet, setup: TrainingSetup) -> Tensor:
    """(classes, classes) counts of true class (rows) by predicted class (columns)."""
    side, device = setup.side, held_out.class_index.device
    whole = round(side / setup.plan.test_crop)
    margin = (whole - side) // 2
    inside = slice(margin, margin + side)
    parts = (unit(resized(part.to(device), whole)) for part in batches(held_out.images, setup.plan.batch_size))
    values = torch.cat([logits(part[:, :, inside, inside]) for part in parts])
    classes = values.shape[1]
    cells = (held_out.class_index * classes + values.argmax(1)).cpu()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def _resident(data: ImageSet, device: torch.device) -> ImageSet:
    """The images on ``device``; those that are decoded on demand stay in their files."""
    images = data.images.to(device) if isinstance(data.images, Tensor) else data.images
    return ImageSet(images, data.class_index.to(device))
