"""The sections of params.yaml that decide how students are trained: augmentation and protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from ims3core.base.schema import Count, Decay, Fraction, Interval, NonNegative, Positive, Section
from ims3core.errors import ParameterError
from ims3core.students.plans import OptimiserName, OptimiserSpec, Plan, Schedule, minimax_epochs

OwnNetwork = Annotated[str, Field(pattern=r"^(convnet|resnetap10|resnet(10|18|34|50|101))$")]


def own_options(network: str, options: Mapping[str, Any]) -> None:
    """Raises a ValueError where a network of our own does not take ``options``: ConvNet has some, ResNets none."""
    wanted = ("width", "padding") if network == "convnet" else ()
    if set(options) <= set(wanted) and all(type(value) is int and value > 0 for value in options.values()):
        return
    allowed = f"{' and '.join(wanted)}, whole numbers from 1" if wanted else "options: {}"
    raise ValueError(f"{network!r} does not take {dict(options)}; wanted {allowed}")


def _ascending(scale: list[float]) -> list[float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"found {scale}, wanted 0 < smallest <= largest <= 1")
    return scale


class Dsa(Section):
    """One operation, drawn for each batch, on normalised images (DSA, Zhao & Bilen 2021)."""

    operations: Annotated[list[Literal["colour", "crop", "cutout", "flip", "scale", "rotate"]], Field(min_length=1)] = (
        Field(description="which of them (DSA: all six, without flip for digits)")
    )
    brightness: NonNegative = Field(description="colour: added, uniform in +- half of it, in standard deviations")
    saturation: NonNegative = Field(description="colour: largest factor of what differs from grey; the smallest is 0")
    contrast: NonNegative = Field(
        description="colour: smallest factor of what differs from the mean; the largest is one more"
    )
    crop: Annotated[float, Field(ge=0, lt=1)] = Field(description="share of the side, whole pixels, uniform in +-")
    cutout: Fraction = Field(description="share of the side of the square that becomes the mean colour")
    flip: Fraction = Field(description="probability of a mirror image")
    scale: Annotated[float, Field(ge=1)] = Field(description="largest reduction of either side, and enlargement")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees, uniform in +-")


class Augment(Section):
    """Augmentation of the training images of students, encoder and teacher."""

    crop_scale: Annotated[Interval, AfterValidator(_ascending)] | None = Field(
        description="smallest and largest share of the area of a random resized crop; null: off"
    )
    flip: Fraction = Field(description="probability of a mirror image; 0: off")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees, uniform in +-; 0: off")
    translate: Annotated[float, Field(ge=0, lt=1)] = Field(description="share of the side, uniform in +-; 0: off")
    colour: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="strength of brightness, contrast and saturation jitter, RGB only; 0: off"
    )
    lighting: NonNegative = Field(description="standard deviation of PCA lighting noise, RGB only; 0: off")
    patch_shuffle: Count = Field(description="patches along each side that change places (RDED: 2); 1: off")
    randaugment: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = Field(
        description="[operations, magnitude] of RandAugment (Cubuk et al. 2020); null: off"
    )
    dsa: Dsa | None = Field(None, description="differentiable Siamese augmentation, behind all others; null: off")


class BatchRule(Section):
    """A batch size by IPC, as RDED has it."""

    by_ipc: dict[Count, Count] = Field(min_length=1, description="batch size for each IPC")
    full: Count = Field(description="batch size for all data, and for an IPC above all in the table")
    many_classes: Count = Field(description="factor for 100 and 1000 classes")

    def size(self, *, ipc: int, classes: int, place: str) -> int:
        """The batch size of a run on sets of ``ipc`` images per class.

        Args:
            place: of the rule in params.yaml, for the error message.

        Raises:
            ParameterError: the rule has no number for this IPC.
        """
        if ipc not in self.by_ipc and ipc <= max(self.by_ipc):
            known = ", ".join(map(str, self.by_ipc))
            raise ParameterError(f"{place}.by_ipc: has no number for IPC {ipc}; known: {known}")
        return self.by_ipc.get(ipc, self.full) * (self.many_classes if classes in (100, 1000) else 1)


class Protocol(Section):
    """How students are trained and scored (paper 5.1)."""

    labels: Literal["hard", "teacher"] = Field(description="what students learn from: the class, or the teacher")
    temperature: Positive | None = Field(description="of the teacher's and the student's softmax; null: hard labels")
    epochs: Count | Literal["minimax"] | None = Field(description="epochs; minimax: by IPC, as IDC and Minimax do")
    steps: Count | None = Field(description="optimiser steps, instead of epochs")
    full_epochs: Count | None = Field(
        None, description="epochs on all real images, enough for them to converge; null: as long as on a set"
    )
    batch_size: Count | BatchRule = Field(description="images per step")
    optimiser: OptimiserName = Field(description="optimiser of the students")
    lr: Positive = Field(description="learning rate")
    lr_for: dict[str, Positive] = Field(description="learning rates of networks whose name contains the key")
    momentum: Decay = Field(description="of SGD")
    weight_decay: NonNegative = Field(description="weight decay")
    decay_matrices_only: StrictBool = Field(description="weight decay on tensors of several dimensions alone (RDED)")
    schedule: Schedule = Field(
        description="of the learning rate: to 0, to one half, times 0.2 at 2/3 and 5/6, times 0.1 at 1/2, or none"
    )
    cutmix: Fraction = Field(description="probability of CutMix on a batch")
    batchnorm_warmup: StrictBool = Field(description="update batch-norm statistics a second time per batch (RDED)")
    evaluations: Count = Field(description="how often a student is scored; the last is the score")
    norm: Literal["instance", "batch"] = Field(description="normalisation layers of our own networks")
    side: Count | None = Field(description="pixels that students look at; null: those of the data")
    test_crop: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the side that test images keep")
    augment: dict[str, Any] = Field(description="keys of the section augment with other values")

    @model_validator(mode="after")
    def _one_length(self) -> Protocol:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"exactly one of epochs ({self.epochs}) and steps ({self.steps}) must be set")
        if (self.labels == "teacher") != (self.temperature is not None):
            raise ValueError(f"temperature: found {self.temperature}; labels {self.labels!r} want "
                             f"{'a number' if self.labels == 'teacher' else 'null'}")  # fmt: skip
        return self

    @property
    def on_all_data(self) -> Protocol:
        """The protocol of the students that see all real images."""
        return self if self.full_epochs is None else self.model_copy(update={"epochs": self.full_epochs, "steps": None})

    def plan(self, network: str, *, ipc: int, classes: int, images: int, name: str = "of this call") -> Plan:
        """The plan of one run on ``images`` training images, ``ipc`` of each class.

        ``epochs: minimax`` is a whole protocol: above 100 classes it also replaces the learning rate (0.1), the weight
        decay (1e-4) and batches below 128 (IDC).

        Args:
            network: a part of its name may have a learning rate of its own (``lr_for``).
            name: the row of the protocol, for error messages.

        Raises:
            ParameterError: there is no batch size for this IPC.
        """
        optimiser = OptimiserSpec(
            next((lr for part, lr in self.lr_for.items() if part in network), self.lr), self.optimiser, self.momentum,
            self.weight_decay, self.decay_matrices_only, self.schedule,
        )  # fmt: skip
        batch, epochs = self.batch_size, self.epochs
        if isinstance(batch, BatchRule):
            batch = batch.size(ipc=ipc, classes=classes, place=f"protocols.{name}.batch_size")
        if epochs == "minimax":
            epochs = minimax_epochs(ipc=ipc, classes=classes)
            if classes > 100:
                optimiser, batch = replace(optimiser, lr=0.1, weight_decay=1e-4), max(batch, 128)
        return Plan(
            images, batch, optimiser, epochs, self.steps, self.evaluations, self.cutmix, self.temperature,
            self.batchnorm_warmup, self.test_crop,
        )  # fmt: skip
