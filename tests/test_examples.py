"""The example of someone else's trainer: plain PyTorch on an exported set, and it learns."""

import re
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples/train_timm.py"


def test_it_trains_on_the_folders_of_an_export(tmp_path):
    """Two classes that differ in brightness are told apart after some steps; nothing of this project is imported."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 20)):
        for label, low in (("dark", 0), ("light", 150)):
            (tmp_path / split / label).mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(low, low + 100, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{n}.png")
    assert "ims3" not in re.sub(r'""".*?"""', "", EXAMPLE.read_text(), flags=re.S)
    assert len(EXAMPLE.read_text().splitlines()) <= 35
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), "test_resnet", "30"], capture_output=True, text=True, check=True
    )
    found = re.fullmatch(r"test_resnet: ([\d.]+) % of 40 test images\n", done.stdout)
    assert float(found[1]) > 90
