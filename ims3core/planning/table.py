"""The plan as a table: one row per stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ims3core.base import compute
from ims3core.planning.costs import costs
from ims3core.planning.facts import Cost
from ims3core.planning.rates import assumed_rates, machine_rates, seconds

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ("stage", "steps", "TFLOP", "images", "memory GB", "disk GB", "time")
CELLS = "students"


def show(params: Params, root: Path, *, tflops: float | None, memory: float | None, measure: bool) -> None:
    """Prints the plan for this machine, or for one that sustains ``tflops`` and has ``memory`` GB."""
    if tflops is None:
        precision = compute.machine(**params.compute.model_dump()).precision
        section = params.compute.model_copy(update={"precision": precision})
        params = params.model_copy(update={"compute": section})
    rows, size = costs(params, root)
    rates = machine_rates(params, root, size, refresh=measure) if tflops is None else assumed_rates(tflops)
    estimated = "" if size.counted else " (estimated)"
    table = Table(title=f"{size.train:,} training images, {size.classes} classes{estimated}")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right")

    def add(row: Cost, time_s: float) -> None:
        mark = " !" if memory is not None and row.memory > memory * 1e9 else ""
        table.add_row(
            row.stage, "" if row.calls is None else f"{row.calls:,}", f"{row.flops / 1e12:,.1f}", f"{row.images:,}",
            f"{row.memory / 1e9:.1f}{mark}", f"{row.disk / 1e9:.2f}", duration(time_s),
        )  # fmt: skip

    for title, group in grouped(rows):
        add(total(title, group), sum(seconds(row, rates) for row in group))
    table.add_section()
    add(total("all", rows), sum(seconds(row, rates) for row in rows))
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    if memory is not None and any(row.memory > memory * 1e9 for row in rows):
        console.print(
            f"! needs more than {memory:g} GB: raise finetune.accumulate, set finetune.gradient_checkpointing, "
            "or lower batch sizes"
        )


def grouped(rows: list[Cost]) -> list[tuple[str, list[Cost]]]:
    """The lines of the table: a stage each, but all cells of one student and protocol together."""
    groups: dict[str, list[Cost]] = {}
    for row in rows:
        stage, _, place = row.stage.partition("@")
        title = f"{stage} ({', '.join(place.split('-', 2)[2].rsplit('-', 1))})" if stage == CELLS else row.stage
        groups.setdefault(title, []).append(row)
    return [(f"{title} x {len(group)}" if len(group) > 1 else title, group) for title, group in groups.items()]


def total(title: str, rows: list[Cost]) -> Cost:
    """The sums of several rows, and the most memory of one; steps of stages that count none are left out."""
    work = {"": sum(row.flops for row in rows)}
    images, disk = sum(row.images for row in rows), sum(row.disk for row in rows)
    calls = [row.calls for row in rows if row.calls is not None]
    return Cost(title, work, sum(calls) if calls else None, images, max(row.memory for row in rows), disk)


def duration(time_s: float) -> str:
    """A number of seconds as text, in seconds, minutes or hours."""
    if time_s < 120:
        return f"{time_s:.0f} s"
    return f"{time_s / 60:.0f} min" if time_s < 7200 else f"{time_s / 3600:.1f} h"
