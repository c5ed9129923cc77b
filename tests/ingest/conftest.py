"""Pictures on disk, and a reader of them with few words."""

import numpy as np
import pytest
from PIL import Image

from ims3core.ingest import classes, readers
from ims3core.params.sections import Data


@pytest.fixture
def draw(tmp_path):
    """A function that writes pictures, 6 px wide and all different, at paths below a folder, and returns the folder."""
    written, root = [], tmp_path / "own"
    root.mkdir()

    def write(*paths):
        for path in paths:
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(written)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place)
            written.append(path)
        return root

    return write


@pytest.fixture(scope="session")
def read():
    """A function that reads a source; ``source`` and ``path`` first, other keys of ``data`` by name."""

    def listing(source, path, **keys):
        given = {
            "source": source, "name": None, "path": str(path), "revision": None, "classes": None, "side": 6,
            "channels": 3, "storage": "pixels", "skip_unreadable": False, "validation_fraction": 0.1,
            "test_fraction": 0.2,
        }  # fmt: skip
        section = Data(**given | keys)
        return readers.read(section, classes.listed(section.classes))

    return listing
