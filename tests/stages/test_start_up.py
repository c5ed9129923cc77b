"""Start-up is paid for every stage: those that compute nothing load no torch, whose import takes one to several seconds."""

import subprocess
import sys

import pytest

from ims3core.base import files

LINES = ("finetune none", "guides none", "candidates real", "labels steps")


@pytest.fixture(scope="module")
def prepared(build, toy_text):
    """The data of the toy profile, and a folder that stands for its teacher."""
    project = build(toy_text, "prepare")
    files.write_manifest(project / "data/teacher", "teacher")
    return project


@pytest.mark.parametrize("line", LINES)
def test_a_stage_that_computes_nothing_loads_no_torch(prepared, line):
    """Neither to find its precision nor to read what it indexes; its output is there all the same."""
    code = f"import sys, ims3core.cli as c\ntry: c.main({line.split()!r})\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=prepared, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
    stage, row = line.split()
    folder = {"finetune": "adapted"}.get(stage, stage)
    assert (prepared / "data" / folder / row / files.MANIFEST).is_file()
