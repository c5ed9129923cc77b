"""What a time budget buys: settings of `ims3 new` from large to small, and the largest that fits on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ims3core.base import compute
from ims3core.planning.costs import costs
from ims3core.planning.rates import machine_rates, seconds

if TYPE_CHECKING:
    from ims3core.params import Params
    from ims3core.planning.sizes import DatasetSize

MARGIN = 0.95  # of the budget that may be planned
DVC_S = 1.5  # seconds that DVC takes around a stage
CLEARLY = 1.3  # beyond so many budgets at the rates of another size, rates are not measured
LEAST_SIDE = 4  # of what students can see
Tree = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """One set of settings.

    Attributes:
        side: pixels.
        steps: of students.
        encoder: steps of the encoder.
        networks: that the refinement compares with, each trained for ``network_steps``.
        iterations: of the refinement, with ``real_batch`` real images per class.
        seeds: students per set.
        generator: steps of the DiT; 0: no generator is trained.
        per_class: candidates of a pretrained generator per class; 0: none is there.
    """

    side: int
    steps: int
    encoder: int
    networks: int
    network_steps: int
    iterations: int
    real_batch: int
    seeds: int
    generator: int = 0
    per_class: int = 0

    def __str__(self) -> str:
        many = "students" if self.seeds > 1 else "student"
        made = f", generator {self.generator:,} steps" if self.generator else ""
        made += f", {self.per_class} candidates per class" if self.per_class else ""
        return (
            f"{self.side} px, {self.steps:,} steps of {self.seeds} {many} per set, {self.iterations} refinement "
            f"steps under {self.networks} networks{made}"
        )

    def layer(self) -> Tree:
        """What the settings are in a profile."""
        steps = [self.network_steps, self.network_steps]
        refined: Tree = {"networks": self.networks, "iterations": {1: self.iterations}, "real_batch": self.real_batch}
        tree: Tree = {
            "data": {"side": self.side}, "protocols": {"steps": {"steps": self.steps}}, "eval": {"seeds": self.seeds},
        }  # fmt: skip
        if self.per_class:
            refined |= {"statistic": {1: "mean", 10: "characteristic"}, "lr": 0.05, "space": "latents"}
            tree["candidates"] = {"per_class": self.per_class}
        else:
            refined |= {"train_steps": {1: steps}, "interpolate": True, "cross_entropy": 3.0}
            tree["encoder"] = {"steps": self.encoder}
        tree["refinements"] = {"ims3_plus": {"set": refined}}
        if self.generator:
            tree["generator"] = own_generator(self.side, self.generator)
        return tree


LEVELS = (  # students' steps, encoder's, networks, their steps, refinement's, its real images, seeds
    (2000, 4000, 12, 400, 300, 64, 2), (1000, 2000, 12, 400, 300, 64, 2), (500, 2000, 12, 400, 300, 64, 1),
    (500, 1000, 8, 400, 200, 64, 1), (500, 600, 5, 250, 100, 32, 1), (300, 600, 4, 250, 80, 32, 1),
    (300, 400, 3, 150, 50, 32, 1), (200, 200, 2, 100, 30, 32, 1), (100, 100, 2, 50, 15, 32, 1),
)  # fmt: skip
WORTH = 4  # levels at which a larger side is worth more than more steps
SIDES = (128, 64, 32)
TRAINED = (5000, 5000, 5000, 2500, 2500, 1200, 1200, 600, 300)  # steps of a generator, by level
PRETRAINED = (250, 250, 100, 100)  # candidates per class, by level


def rungs(short: int, *, side: int | None, gpu: bool, trains: bool, pretrained: bool) -> list[Rung]:
    """All settings for pictures of ``short`` pixels, from large to small.

    Args:
        side: the one to take, if it was asked for.
        trains: a generator is trained; ``pretrained``: there is one, which fixes the side.
    """
    if pretrained:
        return [Rung(256, *level, per_class=count) for level, count in zip(LEVELS, PRETRAINED, strict=False)]
    sides = [one for one in SIDES if one <= short and (gpu or one <= 64)]
    if short < 64 and short not in sides:
        sides = sorted({max(LEAST_SIDE, short), *sides}, reverse=True)
    sides = [side] if side else sides
    return [
        Rung(one, *level, generator=trains * made)
        for one in sides
        for level, made in list(zip(LEVELS, TRAINED, strict=True))[: None if one == sides[-1] else WORTH]
    ]


def own_generator(side: int, steps: int) -> Tree:
    """A small VAE with latents of about 8 x 8, and a DiT on them (settings of ImageNette at 32 px)."""
    latent, widths = side, [32]
    while latent % 2 == 0 and latent >= 16:
        latent, widths = latent // 2, [*widths, 64]
    patch = 2 if latent > 8 and latent % 2 == 0 else 1
    return {
        "source": "train",
        "vae": {"latent_channels": 4, "widths": widths, "steps": max(300, steps // 3), "batch_size": 64, "lr": 0.002,
                "kl_weight": 0.0001},
        "dit": {"width": 192, "depth": 8, "heads": 3, "patch": patch}, "steps": steps, "batch_size": 64, "lr": 0.0008,
        "warmup_steps": min(200, steps // 10), "label_dropout": 0.1, "ema_decay": 0.999, "checkpoint_every": 250,
    }  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A rung with its parameters and costs on this machine."""

    rung: Rung
    params: Params
    rates: Mapping[str, float]
    seconds: float
    prepare_s: float
    memory: float
    disk: float


class Ladder:
    """The rungs of one folder, planned when asked for.

    Args:
        build: the parameters of a rung.
        decode_s: seconds that decoding a picture takes in one process.
    """

    def __init__(
        self, build: Callable[[Rung], Params], root: Path, size: DatasetSize, *, decode_s: float
    ) -> None:  # fmt: skip
        self._build, self._root, self._size, self._decode_s = build, root, size, decode_s
        self._rates: dict[int, dict[str, float]] = {}

    def planned(self, rung: Rung, *, rates_of: int | None = None) -> Planned:
        """The costs of ``rung``, at the rates of its own side or of another."""
        params = self._build(rung)
        section = params.compute.model_copy(update={"precision": self.machine(params).precision})
        params = params.model_copy(update={"compute": section})
        side = rates_of or rung.side
        if side not in self._rates:
            asked = params.model_copy(update={"data": params.data.model_copy(update={"side": side})})
            self._rates[side] = dict(machine_rates(asked, self._root, self._size))
            workers = params.compute.threads or len(os.sched_getaffinity(0))
            self._rates[side]["decode"] = workers / max(self._decode_s, 1e-6)
        rates = self._rates[side]
        rows, _ = costs(params, self._root, self._size)
        times = [seconds(row, rates) for row in rows]
        return Planned(
            rung,
            params,
            rates,
            sum(times) + DVC_S * len(rows),
            times[0],
            max(row.memory for row in rows),
            sum(row.disk for row in rows),
        )

    @staticmethod
    def machine(params: Params) -> compute.Machine:
        """Where and how the run computes."""
        return compute.machine(**params.compute.model_dump())

    def fitting(self, rungs: list[Rung], budget_s: float, memory: float) -> Iterator[Planned]:
        """From large to small, the last that does not fit and the first that does; the smallest where none does."""
        reference, before = rungs[-1].side, None
        for rung in rungs:
            plan = self.planned(rung, rates_of=reference)
            if plan.seconds <= CLEARLY * budget_s and rung.side != reference:
                plan = self.planned(rung)
            if plan.seconds <= MARGIN * budget_s and plan.memory <= memory:
                if before is not None:
                    yield before
                yield plan
                return
            before = plan
        if before is not None:
            yield before
