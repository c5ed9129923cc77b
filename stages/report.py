"""report: tables, plots and one offline page from every cell of the grid (all tables and figures of the paper)."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from ims3core.base import files
from ims3core.pipeline.stage import Stage, Unit
from ims3core.pipeline.workspace import short_digest
from ims3core.report import answer, data
from ims3core.report.render import render
from ims3core.studies import figures

log = logging.getLogger(__name__)


class Report(Stage):
    """Writes metrics/accuracy.{csv,json}, metrics/plots, metrics/tables and reports/index.html.

    A unit is a picture of a study: whoever changes its numbers has it drawn again.
    """

    name = "report"
    amounts = ("*",)
    named = ("*",)

    def needs_network(self) -> bool:
        """Pictures are drawn."""
        return False

    @cached_property
    def report(self) -> data.ReportData:
        """Every input, read before anything is drawn or written."""
        return data.read(self.params, self.root)

    @cached_property
    def studies(self) -> list[figures.FinishedStudy]:
        """The studies that were run on this data set."""
        return figures.finished(self.params, self.root)

    def units(self) -> list[Unit]:
        """The pictures of studies; what the report cannot read is refused before one is drawn."""
        _ = self.report
        return [self.unit(drawing) for study in self.studies for drawing in study.drawings]

    def unit(self, drawing: figures.Drawing) -> Unit:
        """The unit of one picture."""
        return Unit(f"{short_digest(drawing.facts)}.png", drawing)

    def make(self, unit: Unit, path: Path) -> None:
        """Draws one picture."""
        path.write_bytes(unit.task.draw())

    def assemble(self, units: list[Unit]) -> None:
        """Every table, every chart and the page."""
        parts = [
            study.part([self.unit_path(self.unit(drawing)).read_bytes() for drawing in study.drawings])
            for study in self.studies
        ]
        for path, content in render(self.report, parts).items():
            files.write_bytes(self.root / path, content)
        told = answer.answer(self.report)
        for line in (told.headline, *told.sentences, "reports/index.html has the curve, the images and every table"):
            log.info("%s", line)
