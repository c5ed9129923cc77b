"""Clones beside the checkout, with real git."""

import subprocess
import sys

import pytest

from ims3core.shell import beside


@pytest.fixture
def git(tmp_path):
    """A repository with one committed file; the fixture runs git in it."""

    def run(*arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    run("init", "-q")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("1\n")
    (tmp_path / "notes.md").write_text("1\n")
    run("add", "-A")
    run("commit", "-qm", "start")
    return run


def test_uncommitted_names_what_differs_and_what_is_new(git, tmp_path):
    """Only under the places asked for; the first name is whole, although git pads its line."""
    assert beside.uncommitted(tmp_path, ["code"]) == []
    (tmp_path / "notes.md").write_text("2\n")
    assert beside.uncommitted(tmp_path, ["code"]) == []
    (tmp_path / "code/a.py").write_text("2\n")
    (tmp_path / "code/new.py").write_text("")
    assert beside.uncommitted(tmp_path, ["code"]) == ["code/a.py", "code/new.py"]


def test_an_experiment_of_the_same_name_makes_room_and_no_other(git, tmp_path, monkeypatch):
    """DVC keeps experiments as refs below the commit they were run on."""
    removed, commit = [], git("rev-parse", "HEAD")
    monkeypatch.setattr(beside, "dvc", lambda folder, *arguments: removed.append(arguments[-1]))
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/mine-0123", commit)
    for name in ("mine-0123", "mine-012", "other-0123"):
        beside.forget_experiment(tmp_path, name)
    assert removed == ["mine-0123"]


def test_a_clone_is_of_the_last_commit_and_keeps_what_dvc_knew(git, tmp_path):
    """Uncommitted work stays out; the lock file of the last run comes back; the cache is where DVC has been told."""
    (tmp_path / "dvc.lock").write_text("old\n")
    git("add", "-A")
    git("commit", "-qm", "lock")
    for arguments in (("init", "-q"), ("config", "--local", "cache.dir", str(tmp_path / "elsewhere"))):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "code/a.py").write_text("uncommitted\n")
    clone = tmp_path / "scratch/beside/mine"
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "_call", lambda folder, *command: calls.append(command[3:]))
        assert beside.prepare_clone(tmp_path, "mine") == clone
        assert (clone / "code/a.py").read_text() == "1\n" and calls == [
            ("config", "--local", "cache.dir", str(tmp_path / "elsewhere"))
        ]
        (clone / ".dvc").mkdir(exist_ok=True)
        (clone / "dvc.lock").write_text("new\n")
        beside.dvc(clone, "repro")
        beside.prepare_clone(tmp_path, "mine")
    assert (clone / "dvc.lock").read_text() == "new\n" and (tmp_path / "dvc.lock").read_text() == "old\n"
