"""Where compiled code is kept between runs: the user's cache folder, or temporary files where it cannot be written.

Homes are read-only in containers and on many compute nodes, and torch's compiler makes its folder when it is imported,
which diffusers does whatever is asked for. So the folder is chosen before, by :mod:`ims3core.base.compute`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)
COMPILED = "TORCHINDUCTOR_CACHE_DIR"


def choose() -> Path:
    """The folder of compiled code, which torch is told: the named one, the user's own, a temporary one that stays.

    One warning where the environment names a folder that cannot be written.
    """
    own = Path(platformdirs.user_cache_dir("ims3"), "compiled")
    spare = Path(tempfile.gettempdir(), f"ims3-{os.getuid()}", "compiled")
    named = [Path(os.environ[COMPILED])] if COMPILED in os.environ else []
    chosen = next((folder for folder in (*named, own) if fault(folder) is None), spare)
    if named and chosen != named[0]:
        log.warning("%s: %s; %s takes its place", COMPILED, fault(named[0]), chosen)
    os.environ[COMPILED] = str(chosen)
    return chosen


def fault(folder: Path) -> str | None:
    """Why nothing can be kept in ``folder``, which is made; None if it can. Another user's code is not run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        owner = folder.stat().st_uid
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return None if owner == os.getuid() else f"{folder} belongs to another user"
