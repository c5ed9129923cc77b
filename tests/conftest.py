"""Fixtures shared by all tests: a toy project directory and small real networks."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import pytest
import torch
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]

# Libraries that only ask for attention; everything else that warns fails the test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["DVC_NO_ANALYTICS"] = "1"  # it would also leave a report among temporary files for every command


def pytest_configure(config):
    """All temporary files of the tests, pytest's own and those of DVC and of processes included, in one folder."""
    folder = tempfile.mkdtemp(prefix="ims3-tests-")
    os.environ |= {"TMPDIR": folder, "DVC_SITE_CACHE_DIR": f"{folder}/dvc"}
    tempfile.tempdir = folder
    # At exit, after multiprocessing (-100) has removed its own folder in there.
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-200)


def pytest_runtest_setup():
    """Tests are small: a second thread mostly waits, above all on a busy machine. A stage sets its own number."""
    torch.set_num_threads(1)


def toy_parameters(**changes) -> dict:
    """The digits profile shrunk to seconds; ``changes`` are dotted keys with ``__`` for dots."""
    from ims3core.pipeline import profiles

    tree = profiles.read(REPOSITORY, "digits").tree
    small = {
        "generator__vae__steps": 4, "generator__vae__widths": [8], "generator__steps": 4, "generator__batch_size": 8,
        "generator__dit": {"width": 16, "depth": 2, "heads": 2, "patch": 2}, "generator__checkpoint_every": 2,
        "generator__warmup_steps": 1, "encoder__steps": 4, "finetune__epochs": 0.05, "finetune__batch_size": 16,
        "finetune__checkpoint_every": 1, "finetune__grad_norm_every": 1, "im__inversion_steps": 2,
        "candidates__per_class": 6, "dpm_solver__steps": 2, "candidates__batch_size": 32, "s3__groups": 2,
        "eval__ipc": [1, 2], "eval__draws": 2, "eval__seeds": 2, "compute__compile": False, "compute__precision": "fp32",
        "compute__threads": 1,
        "report__grid_images": 2, "report__tsne_real": 6,
        "refinements__ims3_plus__set": {"networks": 2, "train_steps": {1: [1, 2]}, "iterations": {1: 2}},
    }  # fmt: skip
    for key, value in {**small, **changes}.items():
        section = tree
        *path, last = key.split("__")
        for part in path:
            section = section[part]
        section[last] = value
    for name in ("steps", "steps_soft"):
        tree["protocols"][name] |= {"steps": 3, "evaluations": 2}
    return tree


@pytest.fixture(scope="session")
def toy_text():
    """The toy profile as YAML."""
    return yaml.safe_dump(toy_parameters(), sort_keys=False)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that writes params.yaml of the toy profile into an empty current directory and returns the Params."""
    from ims3core.params import load

    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(toy_parameters(**changes), sort_keys=False))
        return load(tmp_path / "params.yaml")

    return write


@pytest.fixture(scope="session")
def stage():
    """A function that runs one row of a stage, in this process, in the current directory: ``stage("select", "s3")``."""
    from ims3core.cli.stages import parameters, run_stage

    return lambda name, *row: run_stage(name, parameters(), *row)


@pytest.fixture(scope="session")
def build(tmp_path_factory, stage):
    """A function that makes a project with the given params.yaml, runs stages like ``"finetune im"``, and returns it."""

    def run(text, *lines):
        root = tmp_path_factory.mktemp("built")
        with contextlib.chdir(root):
            Path("params.yaml").write_text(text)
            for line in lines:
                stage(*line.split())
        return root

    return run


@pytest.fixture
def tiny_dit():
    """A DiT of 2 blocks on 4x4 latents whose weights are all random, so that every path carries signal."""
    from ims3core.diffusion.dit import DiT, DitConfig

    network = DiT(DitConfig(channels=4, side=4, patch=2, width=16, depth=2, heads=2, classes=3, norm_eps=1e-5))
    stream = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.2, generator=stream)
    return network.eval()
