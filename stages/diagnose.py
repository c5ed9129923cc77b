"""diagnose: what is measured of a generator beside its images (paper Eq. 12)."""

from __future__ import annotations

from ims3core.base import compute, files, seeds
from ims3core.diffusion import generator, latents
from ims3core.pipeline.stage import Stage, Unit

COLUMNS = ("diagnostic", "measure", "sample", "value")


class Diagnose(Stage):
    """Writes metrics/diagnostics/<row>.csv: one line per value that was measured, in fp32."""

    name = "diagnose"

    def assemble(self, units: list[Unit]) -> None:
        """The values of the row's diagnostic."""
        row, name = self.params.diagnostics[self.node.row], self.node.row
        machine = compute.machine(**(self.params.compute.model_dump() | {"precision": "fp32"}))
        folder = self.input("data/generator")
        files.read_manifest(folder, "generator")
        network = generator.read_adapted(folder, self.input(f"data/adapted/{row.adaptation}"))
        network = network.eval().requires_grad_(False).to(machine.device)
        cached = latents.read(self.input("data/latents"))
        values = self.params.diagnostic(name).measure(
            network, generator.read_schedule(folder), cached.mean[0].to(machine.device),
            cached.label.to(machine.device), seeds.generator(self.params.seed, "probe", name),
        )  # fmt: skip
        lines = [(name, kind, n, value) for kind, series in values.items() for n, value in enumerate(series)]
        files.write_csv(self.output, COLUMNS, lines)
