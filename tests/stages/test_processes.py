"""Several processes on one stage: the same bytes as one, and disagreement is named."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ims3core import cli
from ims3core.base import files
from ims3core.base.distributed import ProcessGroup
from ims3core.errors import ParameterError
from ims3core.pipeline import profiles

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(build, toy_text):
    """A toy project that one process has run up to the features."""
    tree = yaml.safe_load(toy_text)
    tree["compute"] |= {"threads": 1, "device": "cpu"}
    tree["finetune"] |= {"accumulate": 2, "batch_size": 16}
    tree["latents"] |= {"batch_size": 200, "flip": True}
    tree["features"]["batch_size"] = 50
    lines = ("prepare", "generator", "encoder", "latents", "finetune im", "guides none", "candidates im", "features im")
    return build(yaml.safe_dump(tree, sort_keys=False), *lines)


@pytest.fixture
def project(built, tmp_path):
    """A copy without the outputs that are to be made again."""
    shutil.copytree(built, tmp_path / "two")
    for gone in ("data/latents", "data/adapted", "data/candidates", "data/features", "scratch"):
        shutil.rmtree(tmp_path / "two" / gone)
    return tmp_path / "two"


def together(folders, *command):
    """Starts one process per folder as one group; returns (exit code, stderr) of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank, folder in enumerate(folders):
        environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(folders)),
            "LOCAL_WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "ims3core", *command],
                cwd=folder,
                env=environment,
                text=True,
                stderr=subprocess.PIPE,
            )
        )
    ends = [(process, process.communicate(timeout=240)[1]) for process in processes]
    return [(process.returncode, text) for process, text in ends]


def same(one, two, path):
    found = [
        {p.relative_to(root / path): p.read_bytes() for p in (root / path).rglob("*") if p.is_file()}
        for root in (one, two)
    ]
    return found[0] == found[1] and len(found[0]) > 0


def test_two_processes_write_the_bytes_of_one(built, project):
    """Latents, candidates and features bit-equal; fine-tuning that accumulates as many slices is bit-equal too."""
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree["finetune"]["accumulate"] = 1  # 2 processes x 1 slice = 1 process x 2 slices
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    for command in (["latents"], ["finetune", "im"], ["candidates", "im"], ["features", "im"]):
        for code, text in together([project] * 2, *command):
            assert code == 0, text
    for path in ("data/latents", "data/candidates/im", "data/features/im"):
        assert same(built, project, path), path
    one, two = (files.read_tensors(root / "data/adapted/im/delta.safetensors") for root in (built, project))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-6


def test_guides_and_refined_sets_of_two_processes_are_those_of_one(build, toy_text, tmp_path):
    """Guides are shared by class, refinements by set; both bit-equal."""
    tree = yaml.safe_load(toy_text)
    every = profiles.read(REPOSITORY, "digits-all").tree
    tree |= {name: every[name] for name in ("statistics", "distribution_matching")}
    tree["statistics"] |= {"sets": 5, "steps": 4}
    tree["distribution_matching"] |= {"iterations": {1: 2}, "real_batch": 8}
    tree["guides"]["statistics"] = {"type": "statistics", "adaptation": "none"}
    tree["refinements"] = {"dm": {"start": "random", "type": "distribution_matching"}}
    tree["eval"]["methods"] = ["random", "dm"]
    tree["report"]["tsne_method"] = "random"
    tree["compute"] |= {"threads": 1, "device": "cpu"}
    lines = ("prepare", "generator", "encoder", "latents", "finetune none", "guides none", "candidates real",
             "features real", "centroids real", "select random")  # fmt: skip
    built = build(yaml.safe_dump(tree, sort_keys=False), *lines)
    shutil.copytree(built, two := tmp_path / "two")
    for command in (["guides", "statistics"], ["refine", "dm"]):
        for folders in ([built], [two] * 2):
            for code, text in together(folders, *command):
                assert code == 0, text
    for path in ("data/guides/statistics", "data/distilled/dm"):
        assert same(built, two, path), path


def test_processes_with_other_parameters_are_refused(project, tmp_path):
    """Both end with exit code 2 and a line that names the odd one; nothing is written."""
    for part in ("latents", "finetune"):
        assert not (project / "data" / part).exists()
    shutil.copytree(project, tmp_path / "other")
    tree = yaml.safe_load((tmp_path / "other/params.yaml").read_text())
    tree["latents"]["batch_size"] = 60
    (tmp_path / "other/params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    for code, text in together([project, tmp_path / "other"], "latents"):
        assert code == 2
        assert "ims3: latents: fingerprint of parameters, inputs and code: process 1 of 2 has" in text
    assert not (project / "data/latents").exists()


@pytest.mark.parametrize("end", [ParameterError("odd"), RuntimeError("odd"), None])
def test_every_end_of_a_command_leaves_the_group(monkeypatch, tmp_path, end):
    """Threads of gloo that outlive the interpreter abort about one process of twelve instead of its exit code."""

    def command(**_):
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
        if end:
            raise end

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises((SystemExit, RuntimeError)) if end else contextlib.nullcontext():
        cli.main()
    assert not torch.distributed.is_initialized()


def test_the_launcher_of_the_parameters_runs_the_command(project, monkeypatch, tmp_path, stage):
    """compute.launch wraps the stages that processes can share, and its failure is one line."""
    monkeypatch.chdir(project)
    tree = yaml.safe_load(Path("params.yaml").read_text())
    script = tmp_path / "launcher"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\nexit 3\n')
    script.chmod(0o755)
    tree["compute"]["launch"] = str(script)
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(ParameterError, match=r"compute\.launch: .*candidates im ended with code 3"):
        stage("candidates", "im")
    assert (tmp_path / "called").read_text() == "-m ims3core candidates im\n"
    script.write_text('#!/bin/sh\nexec python3 "$@"\n'.replace("python3", sys.executable))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    stage("latents")  # a launcher of one process does not launch itself again
    assert Path("data/latents/manifest.json").is_file()
    tree["compute"]["launch"] = "no-such-launcher"
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(ParameterError, match=r"compute\.launch: 'no-such-launcher': no such command"):
        stage("candidates", "im")


def test_alone_everything_is_free():
    """A group of one process takes all the work and sends nothing."""
    processes, value = ProcessGroup(), torch.ones(3)
    processes.all_reduce([value])
    processes.barrier()
    processes.require_equal("x", "y")
    assert (value.tolist(), processes.broadcast(json)) == ([1, 1, 1], json)
    assert (list(processes.shard(3)), processes.is_main) == ([0, 1, 2], True)
    assert [list(ProcessGroup(r, 2).shard(5)) for r in range(2)] == [[0, 2, 4], [1, 3]]
