"""labels: what students of a protocol learn from: the teacher, or nothing beside the class for hard labels."""

from __future__ import annotations

import logging
import shutil

from ims3core.base import files
from ims3core.pipeline.stage import Stage, Unit

log = logging.getLogger(__name__)


class Labels(Stage):
    """Writes data/labels/<protocol>: hard labels do not change with the teacher, so their cells do not either."""

    name = "labels"

    def assemble(self, units: list[Unit]) -> None:
        """The teacher's folder, or an empty one."""
        kind = self.params.protocols[self.node.row].labels
        if kind == "teacher":
            files.read_manifest(self.input("data/teacher"), "teacher")
            shutil.copytree(self.input("data/teacher"), self.workspace.output, dirs_exist_ok=True)
        else:
            files.write_manifest(self.workspace.output, "labels", labels=kind)
        log.info("%s: %s labels", self.node.row, kind)
