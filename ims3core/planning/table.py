"""The plan as a table: one row per stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ims3core.base import compute
from ims3core.planning.costs import Cost, costs
from ims3core.planning.rates import assumed_rates, machine_rates, seconds

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ("stage", "calls", "TFLOP", "images", "memory GB", "disk GB", "time")


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
            row.stage, f"{row.calls:,}", f"{row.flops / 1e12:,.1f}", f"{row.images:,}",
            f"{row.memory / 1e9:.1f}{mark}", f"{row.disk / 1e9:.2f}", duration(time_s),
        )  # fmt: skip

    times = [seconds(row, rates) for row in rows]
    for row, time_s in zip(rows, times, strict=True):
        add(row, time_s)
    table.add_section()
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("calls", "flops", "images", "disk")}
    add(Cost("all", "none", **sums, memory=max(row.memory for row in rows)), sum(times))
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    if memory is not None and any(row.memory > memory * 1e9 for row in rows):
        console.print(
            f"! needs more than {memory:g} GB: raise finetune.accumulate, set finetune.gradient_checkpointing, "
            "or lower batch sizes"
        )


def duration(time_s: float) -> str:
    """A number of seconds as text, in seconds, minutes or hours."""
    if time_s < 120:
        return f"{time_s:.0f} s"
    return f"{time_s / 60:.0f} min" if time_s < 7200 else f"{time_s / 3600:.1f} h"
