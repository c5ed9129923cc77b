"""The graph, run by DVC itself on the toy profile in a copy of this project: `make test-slow` (about 3 minutes)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def dvc(project, *arguments):
    """Runs DVC in ``project`` and returns the stages it ran."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=project, capture_output=True, text=True, check=False,
        env=environment(project),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return re.findall(r"Running stage '([^']+)'", result.stdout)


def environment(project):
    return os.environ | {
        "PYTHONPATH": str(project), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def change(project, *path, value):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    section = tree
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    (project / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def tracked_bytes(project):
    return {
        p.relative_to(project): p.read_bytes()
        for folder in ("data", "metrics", "reports")
        for p in sorted((project / folder).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_text):
    """A git repository with this code, the toy profile and no results, fully reproduced once."""
    root = tmp_path_factory.mktemp("project")
    for name in ("ims3core", "stages", "profiles"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "params.yaml").write_text(toy_text)
    # Enough pieces of work that a kill can fall between two of them.
    change(root, "finetune", "epochs", value=1.0)
    change(root, "candidates", "steps", value=20)
    change(root, "protocols", "steps", "steps", value=60)
    change(root, "compute", "threads", value=1)  # else all student runs of a cell could end at the same time
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"],
                    ["git", *identity, "commit", "-qm", "start"]):  # fmt: skip
        subprocess.run(command, cwd=root, check=True, env=environment(root))
    dvc(root, "repro")
    return root


def test_a_second_repro_runs_nothing(project):
    """Everything is up to date."""
    assert dvc(project, "repro") == []


@pytest.mark.parametrize(
    ("path", "value", "first", "untouched"),
    [
        (("s3", "alpha"), 0.5, {"select@s3", "select@ims3"}, r"generator|encoder|finetune|candidates|features|centroids"),
        (("im", "lambda_im"), 0.01, {"finetune@im"}, r"generator|encoder|latents|finetune@none|candidates@(dit|real)|select@(dit|s3|random)$"),
        (("encoder", "lr"), 0.01, {"encoder"}, r"generator|latents|finetune|candidates"),
        (("eval", "ipc"), [1, 2, 3], {"select@dit"}, r"generator|encoder|finetune|candidates|features|centroids|students@.*-[12]-"),
    ],
    ids=["alpha", "lambda", "encoder", "ipc"],
)  # fmt: skip
def test_one_knob_rebuilds_only_what_it_affects(project, path, value, first, untouched):
    """The stages that run include the first affected ones and none of the unaffected."""
    before = (project / "params.yaml").read_text()
    dvc(project, "repro")
    try:
        if path[-1] == "ipc":
            change(project, "report", "grid_images", value=2)
        change(project, *path, value=value)
        ran = dvc(project, "repro")
    finally:
        (project / "params.yaml").write_text(before)

    assert first <= set(ran)
    assert not [name for name in ran if re.match(untouched, name)]


def test_a_forced_repro_changes_no_byte(project):
    """All outputs are equal after everything ran again."""
    dvc(project, "repro")
    before = tracked_bytes(project)
    dvc(project, "repro", "--force")

    after = tracked_bytes(project)
    assert {k for k in before if before[k] != after.get(k)} == set()
    assert before.keys() == after.keys()


@pytest.mark.parametrize("victim", ["stage", "dvc"])
@pytest.mark.parametrize(
    ("stage", "home", "piece", "output"),
    [
        ("generator", "generator", "checkpoint.safetensors", "data/generator"),
        ("finetune@im", "finetune-im", "checkpoint.safetensors", "data/adapted/im"),
        ("candidates@dit", "candidates-dit", "out/shard-*.safetensors", "data/candidates/dit"),
        ("students@dit-2-convnet", "students-dit-2-convnet", "run-*.json", "metrics/cells/dit-2-convnet.json"),
    ],
    ids=["generator", "finetune", "candidates", "students"],
)
def test_a_kill_is_survived(project, stage, home, piece, output, victim):
    """kill -9 of the stage, or of dvc alone, with a part of the work done: the next run goes on and ends with the same bytes."""
    dvc(project, "repro")
    place = project / output
    wanted = sorted(place.rglob("*")) if place.is_dir() else [place]
    expected = {path: path.read_bytes() for path in wanted if path.is_file()}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage], cwd=project,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(project),
    )  # fmt: skip
    folder = project / "scratch" / home
    deadline = time.time() + 120
    while not list(folder.glob(f"*/{piece}")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.002)
    if victim == "stage":
        os.kill(int((folder / "lock").read_text()), signal.SIGKILL)  # fails if it has ended: then nothing was shown
    else:
        assert process.poll() is None
        process.kill()
    process.wait()
    if victim == "stage":
        assert list(folder.glob(f"*/{piece}"))  # part of the work is there to go on from
    # Forced: a plain repro would bring the earlier run's outputs back from DVC's run cache and resume nothing.
    ran = dvc(project, "repro", "--force", "--single-item", stage)

    assert stage in ran
    assert {path: path.read_bytes() for path in expected} == expected
