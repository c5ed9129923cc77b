"""Minimax fine-tuning: predictions near all real latents of their class and far from each other (Gu et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from ims3core.axes.adaptations import Adaptation
from ims3core.base.schema import Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.diffusion.batches import Batch
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule


class Minimax(Adaptation):
    """The diffusion loss and two terms, with memories of the latest real latents and predictions of each class."""

    lambda_representative: NonNegative = Field(
        description="weight of 1 - the smallest cosine to a stored real latent (public code: 0.002)"
    )
    lambda_diverse: NonNegative = Field(
        description="weight of the largest cosine to a stored prediction (public code: 0.008)"
    )
    memory: Count = Field(description="latents kept per class (public code: 64)")

    def objective(self, *, variational: bool) -> MinimaxObjective:
        """With memories that start empty."""
        return MinimaxObjective(self, variational=variational)

    def passes(self) -> float:
        """Forward and back; the terms ask the network nothing more."""
        return 2.0


class _Step(NamedTuple):
    """The batch of a step in row order, of which an objective may see slices: what the terms look at."""

    z0: Tensor
    label: Tensor
    predicted: Tensor | None  # clean latents, detached; None where the only slice is the batch itself
    parts: int


class MinimaxObjective:
    """The objective with its memories (:class:`~ims3core.diffusion.training.StatefulObjective`).

    For every class of the batch with a memory: representativeness, 1 - the smallest cosine between a predicted clean
    latent and a real one; diversity, the largest cosine between one and an earlier prediction; both over the number
    of classes in the batch. Which pair is the smallest or largest is decided on the whole batch, so slices and
    processes that each compute a part of it add up to the same terms.
    """

    def __init__(self, section: Minimax, *, variational: bool) -> None:
        self.section, self.variational = section, variational
        self.real: dict[int, Tensor] = {}
        self.predicted: dict[int, Tensor] = {}

    def predict(self, network: DiT, schedule: Schedule, batch: Batch) -> Tensor:
        """The predicted clean latents (B, ...) of one slice, without gradient."""
        import torch

        from ims3core.diffusion.losses import predict_noise
        from ims3core.diffusion.schedule import predict_z0

        with torch.no_grad():
            z_t, eps_hat, _ = predict_noise(network, schedule, batch, variational=False)
            return predict_z0(schedule, z_t, eps_hat, batch.t)

    def begin(self, z0: Tensor, label: Tensor, predicted: Tensor | None, *, parts: int, first: int) -> None:
        """Opens a step: the whole batch, in ``parts`` slices, of which those from row ``first`` on come here."""
        self.step, self.row = _Step(z0, label, predicted, parts), first

    def __call__(self, network: DiT, schedule: Schedule, batch: Batch) -> dict[str, Tensor]:
        """The terms of the next slice; they are means over slices, so the two are multiplied by their number."""
        from ims3core.diffusion.losses import predict_noise
        from ims3core.diffusion.schedule import predict_z0

        z_t, eps_hat, terms = predict_noise(network, schedule, batch, variational=self.variational)
        z0_hat = predict_z0(schedule, z_t, eps_hat, batch.t)
        predicted = z0_hat.detach() if self.step.predicted is None else self.step.predicted
        self.step = self.step._replace(predicted=predicted)
        representative, diverse = self._terms(z0_hat.flatten(1), predicted)
        self.row += len(z0_hat)
        terms["representative"] = self.step.parts * self.section.lambda_representative * representative
        terms["diverse"] = self.step.parts * self.section.lambda_diverse * diverse
        return terms

    def _terms(self, z0_hat: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """The part of both terms whose deciding predictions are among ``z0_hat`` (B, dim), rows self.row on."""
        predicted = predicted.flatten(1).to(z0_hat)
        classes = self.step.label.unique().tolist()
        totals = [z0_hat.sum() * 0, z0_hat.sum() * 0]  # no gradient, but part of the graph
        for c in classes:
            rows = (self.step.label == c).nonzero().flatten()
            for n, (memory, sign) in enumerate(((self.real, -1), (self.predicted, 1))):
                if c not in memory:
                    continue
                stored = memory[c].to(z0_hat)
                row, entry = _argmax(sign * _cosines(predicted[rows.to(predicted.device)], stored))
                local = int(rows[row]) - self.row
                constant = 1.0 if sign < 0 else 0.0
                if 0 <= local < len(z0_hat):
                    value = _cosines(z0_hat[local : local + 1], stored[entry : entry + 1])[0, 0]
                    totals[n] = totals[n] + (constant + sign * value) / len(classes)
        return totals[0], totals[1]

    def remember(self) -> None:
        """Closes a step: the batch's latents and predictions enter the memories, in row order; the oldest leave."""
        import torch

        assert self.step.predicted is not None, "a step is closed after its last slice"
        for c in self.step.label.unique().tolist():
            rows = self.step.label == c
            for memory, latents in ((self.real, self.step.z0), (self.predicted, self.step.predicted)):
                new = latents.flatten(1)[rows.to(latents.device)].detach().float().cpu()
                memory[c] = torch.cat([memory.get(c, new[:0]), new])[-self.section.memory :]

    def state(self) -> dict[str, Tensor]:
        """The memories as named tensors, for a checkpoint."""
        named = (("real", self.real), ("predicted", self.predicted))
        return {f"{name}.{c}": latents.clone() for name, memory in named for c, latents in memory.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes the memories of :meth:`state`."""
        for name, latents in tensors.items():
            kind, c = name.split(".")
            {"real": self.real, "predicted": self.predicted}[kind][int(c)] = latents


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines between the rows of ``a`` and of ``b``."""
    from torch.nn import functional as F

    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def _argmax(values: Tensor) -> tuple[int, int]:
    """Row and column of the largest value."""
    return divmod(int(values.argmax()), values.shape[1])
