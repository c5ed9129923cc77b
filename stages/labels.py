"""labels: what students of a protocol learn from: nothing beside the class for hard labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ims3core.base import files

if TYPE_CHECKING:
    from ims3core.params import Params

log = logging.getLogger(__name__)


def run(params: Params, root: Path, protocol: str) -> None:
    """Writes data/labels/<protocol>."""
    wanted = params.protocols[protocol]
    staged = root / "scratch" / f"labels-{protocol}"
    staged.mkdir(parents=True, exist_ok=True)
    files.write_manifest(staged, "labels", labels=wanted.labels)
    files.replace_directory(staged, root / "data/labels" / protocol)
    log.info("%s: %s labels", protocol, wanted.labels)
