"""Trained weights outlive their output: DVC deletes what it could not take into its cache, such as a full one."""

import shutil
from pathlib import Path

import pytest
import yaml

from ims3core.base import compute


@pytest.fixture(scope="module")
def built(build, toy_text):
    """A toy project in which every network is trained, the teacher too."""
    tree = yaml.safe_load(toy_text)
    tree["teacher"] = tree["encoder"] | {"source": "train", "norm": "batch"}
    return build(yaml.safe_dump(tree), "prepare", "generator", "encoder", "teacher", "latents", "finetune im")


@pytest.mark.parametrize(
    ("line", "output", "weights"),
    [
        ("generator", "generator", None),  # written anew from its weights, in the layout of diffusers
        ("encoder", "encoder", "weights.safetensors"),
        ("teacher", "teacher", "weights.safetensors"),
        ("finetune im", "adapted/im", "delta.safetensors"),
    ],
)
def test_what_was_trained_is_there_when_the_output_is_gone(built, monkeypatch, stage, line, output, weights):
    """The same bytes come back without a training step; a copy takes no space of its own."""

    def trains(self, network, **options):
        raise AssertionError("trained again")

    monkeypatch.chdir(built)
    monkeypatch.setattr(compute.Machine, "for_training", trains)
    folder = Path("data", output)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if weights:
        twins = [path for path in Path("scratch").rglob("*") if path.is_file() and path.samefile(folder / weights)]
        assert twins
    shutil.rmtree(folder)
    stage(*line.split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
