"""`ims3 repro` with real workers and DVC, killed at random: the bytes of `dvc repro`. `make test-slow`."""

import contextlib
import os
import random
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
pytest.importorskip("distributed")


def environment(project):
    return os.environ | {
        "PYTHONPATH": str(project), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def call(project, *words):
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=project, capture_output=True, text=True, check=False, env=environment(project)
    )  # fmt: skip


def begin(project, *words):
    """`ims3 repro` in the background; what it says is :func:`said`."""
    with (project.parent / f"{project.name}.said").open("a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "ims3core", "repro", *words], cwd=project, env=environment(project), stderr=said
        )


def said(project):
    return (project.parent / f"{project.name}.said").read_text()[-3000:]


def outputs(project):
    files = [path for name in ("data", "metrics", "reports") for path in sorted((project / name).rglob("*"))]
    return {str(path.relative_to(project)): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, toy_text):
    """A function that makes a git repository with this code, a small grid on one thread a process, and no results."""

    def make():
        root = tmp_path_factory.mktemp("fresh")
        for name in ("ims3core", "stages", "profiles", "metrics/studies"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", "studies.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(REPOSITORY / name, root / name)
        tree = yaml.safe_load(toy_text)
        tree["methods"] = {name: tree["methods"][name] for name in ("random", "dit")}
        tree["refinements"] = {"ims3_plus": tree["refinements"]["ims3_plus"] | {"start": "random"}}
        tree["pools"].pop("im")
        tree["adaptations"].pop("im")
        tree["eval"]["methods"] = ["random", "dit", "ims3_plus"]
        tree["report"]["tsne_method"] = "random"
        tree["protocols"]["steps"]["steps"] = 20
        tree["compute"]["threads"] = 1
        (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "-A"],
                        ["git", *identity, "commit", "-qm", "start"]):  # fmt: skip
            subprocess.run(command, cwd=root, check=True, env=environment(root))
        return root

    return make


@pytest.fixture(scope="module")
def plain(fresh):
    """What `dvc repro` leaves."""
    project = fresh()
    found = call(project, "dvc", "repro")
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return project


def assert_same(project, plain):
    assert outputs(project) == outputs(plain)
    locks = [yaml.safe_load((root / "dvc.lock").read_text()) for root in (project, plain)]
    assert locks[0] == locks[1]  # the order of its entries is that in which stages ended
    assert "Running stage" not in call(project, "dvc", "repro").stdout
    assert "up to date" in call(project, "dvc", "status").stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_leave_the_bytes_of_dvc(fresh, plain, workers):
    """Every output and dvc.lock; DVC then runs nothing, and neither does a second run of ours."""
    project = fresh()
    assert begin(project, "--workers", workers).wait() == 0, said(project)
    assert "failed" not in said(project)
    assert_same(project, plain)
    again = call(project, "ims3core", "repro", "--workers", workers)
    assert again.returncode == 0 and re.search(r"\d+ stages are up to date; 0 units were made", again.stdout)


def children(pid):
    """Processes of workers below ``pid``."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                yield int(entry.name)


def test_ten_deaths_of_workers_and_one_of_the_driver_lose_nothing(fresh, plain):
    """At random moments, from the first second on; the same command goes on."""
    project, stream, killed = fresh(), random.Random(3), 0
    while True:
        driver = begin(project, "--workers", "2")
        while driver.poll() is None:
            time.sleep(stream.uniform(1, 6))
            alive = list(children(driver.pid))
            if killed < 10 and alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stream.choice(alive), signal.SIGKILL)
                killed += 1
                if killed == 5:
                    driver.kill()
        if driver.returncode != -signal.SIGKILL:
            break
    assert driver.returncode == 0, said(project)
    assert_same(project, plain)


def test_a_grid_that_was_begun_by_workers_is_ended_by_dvc(fresh, plain):
    """And only what is missing is run: units that were written are the same files."""
    project = fresh()
    driver = begin(project, "--workers", "2")
    while driver.poll() is None and not list((project / "scratch").glob("students-*/*/run-*")):
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    written = {path: path.stat().st_mtime_ns for path in (project / "scratch").glob("students-*/*/run-*")}
    assert call(project, "ims3core", "doctor").returncode in (0, 1)
    found = call(project, "dvc", "repro")
    assert found.returncode == 0, found.stderr[-2000:]
    assert_same(project, plain)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())


def test_jobs_of_a_queue_make_the_grid(fresh, plain, tmp_path):
    """dask-jobqueue's own local queue: job scripts that run here."""
    pytest.importorskip("dask_jobqueue")
    project = fresh()
    (tmp_path / "local.yaml").write_text(
        "jobqueue: {local: {cores: 1, processes: 1, memory: 4GB}}\ndistributed: {adaptive: {minimum: 0, maximum: 2}}\n"
    )
    found = call(project, "ims3core", "repro", "--cluster", str(tmp_path / "local.yaml"))
    assert found.returncode == 0, found.stderr[-3000:]
    assert_same(project, plain)


def slurm():
    """Why no job can be sent to Slurm here, or None."""
    if shutil.which("sbatch") is None:
        return "Slurm is not installed"
    found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
    return None if found.returncode == 0 and "idle" in found.stdout else "Slurm has no idle node"


def test_a_cancelled_job_of_slurm_is_replaced(fresh, plain, tmp_path):
    """Two jobs of one core make the grid; one is cancelled on the way (docs/cluster.md has the recipe of a machine)."""
    if (reason := slurm()) is not None:
        pytest.skip(reason)
    project = fresh()
    (tmp_path / "slurm.yaml").write_text(
        "jobqueue: {slurm: {cores: 1, processes: 1, memory: 2GB, walltime: '01:00:00', log-directory: scratch/slurm}}\n"
        "distributed: {adaptive: {minimum: 0, maximum: 2}}\n"
    )

    def jobs():
        command = ["squeue", "-h", "-n", "dask-worker", "-t", "R", "-o", "%i"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    driver, seen = begin(project, "--cluster", str(tmp_path / "slurm.yaml")), set()
    while driver.poll() is None and not list((project / "scratch").glob("generator/*/*begun*")):
        time.sleep(0.2)
    cancelled = jobs()[0]
    subprocess.run(["scancel", cancelled], check=True)
    while driver.poll() is None:
        seen |= set(jobs())
        time.sleep(1)
    assert driver.returncode == 0, said(project)
    assert len(seen - {cancelled}) >= 2
    assert_same(project, plain)
