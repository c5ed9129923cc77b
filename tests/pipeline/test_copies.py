"""Copies of the project that are no full clone: an archive without git, a shallow clone."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ims3core import cli
from ims3core.errors import ParameterError
from ims3core.pipeline import checkouts

REPOSITORY = Path(__file__).resolve().parents[2]
IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@t"]


def git(folder, *arguments):
    return subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, capture_output=True, check=True).stdout


def dvc(folder, *arguments):
    env = os.environ | {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=env
    )


@pytest.fixture
def origin(tmp_path):
    """A repository of two commits with DVC, one cheap stage and a profile."""
    root = tmp_path / "origin"
    (root / "profiles").mkdir(parents=True)
    (root / "profiles/mine.yaml").write_text("seed: 0\n")
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.yaml").write_text("stages: {one: {cmd: cp params.yaml out, deps: [params.yaml], outs: [out]}}\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text((REPOSITORY / ".dvc/config").read_text())
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(root, "init", "-q", "-b", "main")
    for message in ("one", "two"):
        (root / "notes").write_text(message)
        git(root, "add", "-A")
        git(root, "commit", "-qm", message)
    return root


@pytest.fixture
def archive(origin, tmp_path):
    """What a forge gives as a download: the files of a commit and no git."""
    with tarfile.open(fileobj=io.BytesIO(git(origin, "archive", "HEAD"))) as tar:
        tar.extractall(tmp_path / "archive", filter="data")
    return tmp_path / "archive"


def test_dvc_works_in_an_archive_after_one_setting(archive):
    """Without it DVC refuses, also where `dvc.yaml` and the configuration are all there."""
    assert dvc(archive, "repro").returncode != 0
    assert dvc(archive, "config", "core.no_scm", "true").returncode == 0
    done = dvc(archive, "repro")
    assert done.returncode == 0, done.stderr
    assert (archive / "out").read_text() == "seed: 0\n"
    assert "up to date" in dvc(archive, "status").stdout


@pytest.mark.parametrize("words", [["run", "digits"], ["study", "ablation"]], ids=" ".join)
def test_what_needs_a_commit_says_so_and_how_to_make_one(toy, tmp_path, monkeypatch, capsys, words):
    """In one line; that way works."""
    toy(candidates__per_class=50)
    shutil.copy(REPOSITORY / "studies.yaml", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "run the last git commit, and there is none here; `git init`" in said
    assert "`dvc config core.no_scm true`" in said


def test_the_way_out_works(archive):
    """`git init`, `git add -A`, `git commit` make a repository whose profiles are known and of which clones are made."""
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        git(archive, *arguments)
    assert checkouts.committed_profiles(archive) == ["mine"]
    assert (checkouts.prepare_clone(archive, "mine") / "profiles/mine.yaml").is_file()


def test_a_repository_around_the_folder_does_not_count(origin, archive):
    """Somebody's home under git: its last commit is not of this project."""
    inside = origin / "inside"
    archive.rename(inside)
    with pytest.raises(ParameterError, match=f"the repository here is another, {origin}; `git init`"):
        checkouts.committed_profiles(inside)


@pytest.mark.parametrize("kind", ["letters beyond ASCII", "part of a bigger repository"])
def test_profiles_and_studies_run_wherever_the_project_lies(origin, tmp_path, kind):
    """DVC runs and makes experiments in the clone, and takes the cache of this folder; what comes back is the project.

    Commands of git say names of a bigger repository from its top.
    """
    if kind == "letters beyond ASCII":
        root = origin.rename(tmp_path / "größe 数据") / ""
    else:
        (tmp_path / "big/inside").mkdir(parents=True)
        shutil.rmtree(origin / ".git")
        root = origin.rename(tmp_path / "big/inside/ims3")
        (tmp_path / "big/notes").write_text("of the whole\n")
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
            git(tmp_path / "big", *arguments)
    assert checkouts.committed_profiles(root) == ["mine"]
    (root / "profiles/new.yaml").touch()
    assert checkouts.uncommitted(root, ["profiles"]) == ["profiles/new.yaml"]
    for _ in range(2):  # made, and taken up again
        clone = checkouts.prepare_clone(root, "mine")
    assert (clone / "profiles/mine.yaml").is_file() and clone.is_relative_to(root / checkouts.HOME / "mine")
    assert (clone / dvc(clone, "cache", "dir").stdout.strip()).resolve() == (root / ".dvc/cache").resolve()
    done = dvc(clone, "exp", "run", "--quiet", "--name", "mine-1", "--set-param", "seed=1")
    assert done.returncode == 0, done.stderr
    assert (clone / "out").read_text() == "seed: 1\n"
    (clone / ".dvc/tmp/rwlock").write_text("")  # as an interrupt leaves it
    checkouts.dvc(clone, "repro", "--quiet")
    assert any((root / ".dvc/cache").rglob("*")) and not (clone / ".dvc/cache").exists()
    checkouts.forget_experiment(clone, "mine-1")
    assert "mine-1" not in dvc(clone, "exp", "list").stdout


def test_a_machine_without_git_is_told(archive, monkeypatch):
    """And an empty repository has no commit."""
    git(archive, "init", "-q")
    with pytest.raises(ParameterError, match="there is none here"):
        checkouts.uncommitted(archive, ["profiles"])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ParameterError, match="no git is installed"):
        checkouts.uncommitted(archive, ["profiles"])


def test_a_shallow_clone_runs_profiles_and_studies(origin, tmp_path):
    """Clones are made of it, also after a further commit, and DVC runs and makes experiments in it."""
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{origin}", str(shallow))
    assert git(shallow, "rev-list", "--count", "HEAD") == b"1\n"
    clone = checkouts.prepare_clone(shallow, "mine")
    assert (clone / "notes").read_text() == "two"
    (shallow / "notes").write_text("three")
    git(shallow, "commit", "-qam", "three")
    assert checkouts.prepare_clone(shallow, "mine") == clone and (clone / "notes").read_text() == "three"
    assert dvc(clone, "exp", "run", "--quiet", "--name", "mine-1").returncode == 0
    assert (clone / "out").read_text() == "seed: 0\n"
    checkouts.forget_experiment(clone, "mine-1")
