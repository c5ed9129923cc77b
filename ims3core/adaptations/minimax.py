"""Minimax fine-tuning: predictions near all real latents of their class and far from each other (Gu et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ims3core.params import schema

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ims3core.diffusion.batches import Batch
    from ims3core.diffusion.dit import DiT
    from ims3core.diffusion.schedule import Schedule


class Section(schema.Section):
    lambda_representative: schema.NonNegative
    lambda_diverse: schema.NonNegative
    memory: schema.Count


def objective(*, variational: bool, lambda_representative: float, lambda_diverse: float, memory: int) -> Minimax:
    """The diffusion loss and the two terms, with memories that start empty."""
    return Minimax(variational, lambda_representative, lambda_diverse, memory)


def passes(*, lambda_representative: float, lambda_diverse: float, memory: int) -> float:
    """Forward and back; the terms ask the network nothing more."""
    return 2.0


class _Whole(NamedTuple):
    """The whole batch of a step in row order, of which an objective may see slices: what the terms look at."""

    z0: Tensor
    label: Tensor
    predicted: Tensor | None  # clean latents, detached; None where the only slice is the whole
    parts: int


class Minimax:
    """The objective with its memories: per class the latest real latents and the latest predictions.

    For every class of the batch with a memory: representativeness, 1 - the smallest cosine between a predicted clean
    latent and a real one; diversity, the largest cosine between one and an earlier prediction; both over the number
    of classes in the batch. Which pair is the smallest or largest is decided on the whole batch, so slices and
    processes that each compute a part of it add up to the same terms.
    """

    def __init__(self, variational: bool, lambda_representative: float, lambda_diverse: float, memory: int) -> None:
        self.variational, self.weights = variational, (lambda_representative, lambda_diverse)
        self.size = memory
        self.real: dict[int, Tensor] = {}
        self.predicted: dict[int, Tensor] = {}

    def predict(self, network: DiT, schedule: Schedule, batch: Batch) -> Tensor:
        """The predicted clean latents (B, ...) of one slice, without gradient."""
        import torch

        from ims3core.diffusion.losses import denoise
        from ims3core.diffusion.schedule import predict_z0

        with torch.no_grad():
            z_t, eps_hat, _ = denoise(network, schedule, batch, variational=False)
            return predict_z0(schedule, z_t, eps_hat, batch.t)

    def begin(self, z0: Tensor, label: Tensor, predicted: Tensor | None, *, parts: int, first: int) -> None:
        """Opens a step: the whole batch, in ``parts`` slices, of which those from row ``first`` on come here."""
        self.whole, self.row = _Whole(z0, label, predicted, parts), first

    def __call__(self, network: DiT, schedule: Schedule, batch: Batch) -> dict[str, Tensor]:
        """The terms of the next slice; they are means over slices, so the two are multiplied by their number."""
        from ims3core.diffusion.losses import denoise
        from ims3core.diffusion.schedule import predict_z0

        z_t, eps_hat, terms = denoise(network, schedule, batch, self.variational)
        own = predict_z0(schedule, z_t, eps_hat, batch.t)
        if self.whole.predicted is None:
            self.whole = self.whole._replace(predicted=own.detach())
        representative, diverse = self._terms(own.flatten(1))
        self.row += len(own)
        terms["representative"] = self.whole.parts * self.weights[0] * representative
        terms["diverse"] = self.whole.parts * self.weights[1] * diverse
        return terms

    def _terms(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The part of both terms whose deciding predictions are among ``own`` (B, dim), rows self.row on."""
        whole = self.whole.predicted.flatten(1).to(own)
        classes = self.whole.label.unique().tolist()
        totals = [own.sum() * 0, own.sum() * 0]  # no gradient, but part of the graph
        for c in classes:
            rows = (self.whole.label == c).nonzero().flatten()
            for n, (memory, sign) in enumerate(((self.real, -1), (self.predicted, 1))):
                if c not in memory:
                    continue
                stored = memory[c].to(own)
                row, entry = _extreme(sign * _cosines(whole[rows.to(whole.device)], stored))
                here = int(rows[row]) - self.row
                constant = 1.0 if sign < 0 else 0.0
                if 0 <= here < len(own):
                    value = _cosines(own[here : here + 1], stored[entry : entry + 1])[0, 0]
                    totals[n] = totals[n] + (constant + sign * value) / len(classes)
        return totals[0], totals[1]

    def remember(self) -> None:
        """Closes a step: the batch's latents and predictions enter the memories, in row order; the oldest leave."""
        for c in self.whole.label.unique().tolist():
            rows = self.whole.label == c
            for memory, values in ((self.real, self.whole.z0), (self.predicted, self.whole.predicted)):
                new = values.flatten(1)[rows.to(values.device)].detach().float().cpu()
                memory[c] = _joined(memory.get(c), new)[-self.size :]

    def state(self) -> dict[str, Tensor]:
        """The memories as named tensors, for a checkpoint."""
        named = (("real", self.real), ("predicted", self.predicted))
        return {f"{name}.{c}": values.clone() for name, memory in named for c, values in memory.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Takes the memories of :meth:`state`."""
        for name, values in tensors.items():
            kind, c = name.split(".")
            {"real": self.real, "predicted": self.predicted}[kind][int(c)] = values


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines between the rows of ``a`` and of ``b``."""
    from torch.nn import functional as F

    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def _extreme(values: torch.Tensor) -> tuple[int, int]:
    """Row and column of the largest value."""
    return divmod(int(values.argmax()), values.shape[1])


def _joined(before: Tensor | None, new: Tensor) -> Tensor:
    import torch

    return new if before is None else torch.cat([before, new])
