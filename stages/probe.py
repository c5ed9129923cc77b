"""probe: what is measured of a generator beside its images (paper Eq. 12)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import compute, files, seeds
from ims3core.diffusion import generator, latents

if TYPE_CHECKING:
    from ims3core.params import Params

COLUMNS = ("probe", "measure", "sample", "value")


def run(params: Params, root: Path, row: str) -> None:
    """Writes metrics/probes/<row>.csv: one line per value that was measured, in fp32."""
    probe, wanted = params.probe(row), params.probes[row]
    machine = compute.machine(**(params.compute.model_dump() | {"precision": "fp32"}))
    folder, adapted = root / "data/generator", root / "data/adapted" / wanted.adaptation
    files.read_manifest(folder, "generator")
    network = generator.read_adapted(folder, adapted).eval().requires_grad_(False).to(machine.device)
    cached = latents.read(root / "data/latents")
    values = probe.module.measure(
        network, generator.read_schedule(folder), cached.mean[0].to(machine.device), cached.label.to(machine.device),
        seeds.generator(params.seed, "probe", row), **probe.values,
    )  # fmt: skip
    lines = [(row, name, n, value) for name, series in values.items() for n, value in enumerate(series)]
    files.write_csv(root / f"metrics/probes/{row}.csv", COLUMNS, lines)
