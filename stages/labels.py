"""labels: what students of a protocol learn from: the teacher, or nothing beside the class for hard labels."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import files

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, protocol: str) -> None:
    """Writes data/labels/<protocol>: hard labels do not change with the teacher, so their cells do not either."""
    wanted, staged = params.protocols[protocol], root / "scratch" / f"labels-{protocol}"
    shutil.rmtree(staged, ignore_errors=True)
    if wanted.labels == "teacher":
        files.read_manifest(root / "data/teacher", "teacher")
        shutil.copytree(root / "data/teacher", staged)
    else:
        staged.mkdir(parents=True)
        files.write_manifest(staged, "labels", labels=wanted.labels)
    files.replace_directory(staged, root / "data/labels" / protocol)
    log.info("%s: %s labels", protocol, wanted.labels)
