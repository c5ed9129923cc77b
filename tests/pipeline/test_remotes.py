"""Finished sets through a DVC remote, in a folder and on S3: pushed, pulled, got and imported, as the docs say."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ims3core.data import distilled

REPOSITORY = Path(__file__).resolve().parents[2]
SET = "data/distilled/random"
STAGES = ("prepare", "encoder", "teacher", "candidates real", "features real", "centroids real", "select random")


def run(folder, *command, check=True):
    """Runs git or DVC in ``folder`` as a user would, with keys of a store of our own."""
    words = [sys.executable, "-m", *command] if command[0] == "dvc" else list(command)
    who = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **who, **keys}
    )
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory, build, toy_text):
    """A git repository with this code, and the sets of the toy profile's row `random` in DVC's cache and lock."""
    root = tmp_path_factory.mktemp("project") / "ims3"
    shutil.copytree(build(toy_text, *STAGES), root, ignore=shutil.ignore_patterns("scratch"))
    for name in ("ims3core", "stages"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "metrics/accuracy.csv").write_text("method\n")  # stands for the tables that git keeps
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "dvc", "init", "-q")
    run(root, "dvc", "commit", "-q", "-f", "select@random")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "a finished set")
    return root


@pytest.fixture
def folder(tmp_path):
    """The commands that name a folder as the default remote."""
    return [["remote", "add", "--default", "store", str(tmp_path / "store")]]


@pytest.fixture
def s3(tmp_path):
    """Those that name a bucket, of a store that runs here as long as the test."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    port = address.rsplit(":", 1)[1]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", port], stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/sets", method="PUT")).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        else:
            raise AssertionError((tmp_path / "log").read_text())
        yield [
            ["remote", "add", "--default", "store", "s3://sets/ims3"],
            ["remote", "modify", "store", "endpointurl", address],
        ]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def published(request, project, tmp_path):
    """A clone of the project whose set was pushed to a remote that its last commit names; its own cache is empty."""
    publisher = tmp_path / "publisher"
    shutil.copytree(project, publisher, symlinks=True)
    for command in request.getfixturevalue(request.param):
        run(publisher, "dvc", *command)
    run(publisher, "git", "commit", "-qam", "a remote")
    run(publisher, "dvc", "push", "-q", "select@random")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(publisher), str(clone))
    return clone


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_set_is_pulled_got_imported_and_read(published, project, tmp_path):
    """Four ways, without computing; the bytes are those that were made, and the set's own manifest holds."""
    made = content(project / SET)
    assert not (published / SET).exists()
    run(published, "dvc", "pull", "-q", SET)
    assert content(published / SET) == made
    assert len(distilled.read_set(published / SET / "ipc-2/draw-1").images) == 20

    shutil.rmtree(published / ".dvc/cache")
    shutil.rmtree(published / SET)
    run(tmp_path, "dvc", "get", "-q", str(published), f"{SET}/ipc-1", "-o", "got")
    assert content(tmp_path / "got") == {k.removeprefix("ipc-1/"): v for k, v in made.items() if k.startswith("ipc-1/")}

    mine = tmp_path / "mine"
    mine.mkdir()
    run(mine, "git", "init", "-q")
    run(mine, "dvc", "init", "-q")
    run(mine, "dvc", "import", "-q", str(published), f"{SET}/ipc-1", "-o", "images")
    assert content(mine / "images") == content(tmp_path / "got")
    assert f"{SET}/ipc-1" in (mine / "images.dvc").read_text()

    code = "import sys, dvc.api; print(dvc.api.read(sys.argv[1], repo=sys.argv[2]))"
    place = f"{SET}/ipc-1/draw-0/manifest.json"
    read = run(tmp_path, sys.executable, "-c", code, place, str(published)).stdout
    assert json.loads(read) == json.loads(made["ipc-1/draw-0/manifest.json"])


def test_a_clone_without_a_remote_has_tables_and_no_images(project, tmp_path):
    """DVC says what is missing and makes nothing up; what git keeps is there, and the sets can be computed."""
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    assert (clone / "metrics/accuracy.csv").is_file() and not (clone / SET).exists()
    for command in (["pull", SET], ["get", str(clone), SET, "-o", str(tmp_path / "got")]):
        assert run(clone, "dvc", *command, check=False).returncode != 0
    assert not (clone / SET).exists() and not (tmp_path / "got").exists()
    status = json.loads(run(clone, "dvc", "status", "--json", "select@random").stdout)
    assert {SET: "not in cache"} in [
        entry["changed outs"] for entry in status["select@random"] if "changed outs" in entry
    ]
