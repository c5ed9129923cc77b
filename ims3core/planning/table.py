"""The plan as a table: one row per stage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ims3core.base import compute
from ims3core.planning.costs import costs
from ims3core.planning.rates import given, known_or_measured, seconds

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ("stage", "calls", "TFLOP", "images", "memory GB", "disk GB", "time")


def show(params: Params, root: Path, *, tflops: float | None, memory: float | None, measure: bool) -> None:
    """Prints the plan for this machine, or for one that sustains ``tflops`` and has ``memory`` GB."""
    if tflops is None:
        here = compute.machine(**params.compute.model_dump())
        section = params.compute.model_copy(update={"precision": here.precision})
        params = params.model_copy(update={"compute": section})
    rows, count = costs(params, root)
    rates = known_or_measured(params, root, count, again=measure) if tflops is None else given(tflops)
    known = "" if count.known else " (estimated)"
    table = Table(title=f"{count.train:,} training images, {count.classes} classes{known}")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right")

    def add(stage: str, calls: int, flops: float, images: int, peak: float, disk: float, took: float) -> None:
        mark = " !" if memory is not None and peak > memory * 1e9 else ""
        cells = (f"{calls:,}", f"{flops / 1e12:,.1f}", f"{images:,}", f"{peak / 1e9:.1f}{mark}", f"{disk / 1e9:.2f}")
        table.add_row(stage, *cells, duration(took))

    times = [seconds(row, rates) for row in rows]
    for row, took in zip(rows, times, strict=True):
        add(row.stage, row.calls, row.flops, row.images, row.memory, row.disk, took)
    table.add_section()
    calls, flops, images, disk = (
        sum(getattr(row, name) for row in rows) for name in ("calls", "flops", "images", "disk")
    )
    add("all", calls, flops, images, max(row.memory for row in rows), disk, sum(times))
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    if memory is not None and any(row.memory > memory * 1e9 for row in rows):
        console.print(
            f"! needs more than {memory:g} GB: raise finetune.accumulate, set finetune.gradient_checkpointing, "
            "or lower batch sizes"
        )


def duration(took: float) -> str:
    """Seconds as a person would say them."""
    if took < 120:
        return f"{took:.0f} s"
    return f"{took / 60:.0f} min" if took < 7200 else f"{took / 3600:.1f} h"
