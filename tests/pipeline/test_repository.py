"""DVC in this process: what it says of a stage, what it runs, what a kill leaves behind."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo as DvcRepo

from ims3core.errors import ArtifactError, ClusterError, CodeChangedError, HeldError
from ims3core.pipeline import mending, repository
from ims3core.pipeline.repository import Repository
from ims3core.planning.priorities import plan

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # of a library of DVC
STAGES = {
    "b": {"cmd": "cp a.txt out/b.txt && echo made >> log", "deps": ["a.txt"], "outs": ["out/b.txt"]},
    "c": {"cmd": "cp out/b.txt out/c.txt", "deps": ["out/b.txt"], "outs": ["out/c.txt"]},
    "fails": {"cmd": "exit 3", "deps": ["a.txt"], "outs": ["never"]},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three stages; the third one fails."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (tmp_path / "a.txt").write_text("1")
    (tmp_path / "out").mkdir()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    return tmp_path


def test_a_stage_is_changed_then_the_same_then_kept(project):
    """Kept is what the run cache brings back: it is not made again."""
    dvc = Repository(project)
    assert dvc.state("b") == "changed"
    dvc.reproduce("b")
    dvc.reproduce("c")
    assert [Repository(project).state(name) for name in "bc"] == ["same", "same"]
    (project / "a.txt").write_text("22")
    Repository(project).reproduce("b")
    (project / "a.txt").write_text("1")
    dvc = Repository(project)
    assert dvc.state("b") == "kept"
    dvc.reproduce("b")
    assert (project / "out/b.txt").read_text() == "1" and (project / "log").read_text() == "made\n" * 2


def test_a_stage_that_fails_is_an_error_of_one_line(project):
    """It names the stage."""
    with pytest.raises(ClusterError, match=r"^fails: .*exited with 3; see the lines above"):
        Repository(project).reproduce("fails")


def test_ignored_files_are_listed_in_the_order_of_dvc(project):
    """Whichever stage ends first: the list lies in a folder that others depend on."""
    dvc = Repository(project)
    dvc.ignore_outputs({"b", "c"})
    assert (project / "out/.gitignore").read_text() == "/b.txt\n/c.txt\n"
    assert not (project / ".gitignore").exists()


def test_a_lock_that_a_kill_has_damaged_is_mended(project):
    """DVC writes it in place."""
    (project / ".dvc/tmp/rwlock").write_text('{"read": {')
    assert Repository(project).state("b") == "changed"


def test_another_command_of_dvc_is_waited_for(project, monkeypatch):
    """Up to a limit, then one line."""
    dvc, other = Repository(project), Repository(project)
    lock = other._repo.lock
    lock.lock()
    threading.Timer(1.0, lock.unlock).start()
    began = time.monotonic()
    assert dvc.state("b") == "changed" and time.monotonic() - began > 0.9
    monkeypatch.setattr(repository, "PATIENCE", 0.0)
    with lock, pytest.raises(ClusterError, match="^DVC: Unable to acquire lock"):
        dvc.state("b")


def test_a_path_that_another_command_of_dvc_is_at_is_waited_for(project, monkeypatch):
    """DVC wraps that error; after a while the stage is left for later, in a line that names the process."""
    dvc, rwlock = Repository(project), project / ".dvc/tmp/rwlock"
    entry = {"write": {str(project / "out/b.txt"): {"pid": os.getppid(), "cmd": "dvc repro"}}, "read": {}}
    rwlock.write_text(json.dumps(entry))
    monkeypatch.setattr(repository, "BRIEFLY", 0.0)
    with pytest.raises(HeldError, match=rf"b\.txt.*is busy.*{os.getppid()}"):
        dvc.reproduce("b")
    monkeypatch.setattr(repository, "BRIEFLY", 60.0)
    threading.Timer(1.0, lambda: rwlock.write_text(json.dumps({"write": {}, "read": {}}))).start()
    dvc.reproduce("b")
    assert (project / "out/b.txt").exists()


def test_a_run_that_was_ended_waits_for_nobody(project):
    """Ctrl-C takes no minutes where another command of DVC holds the lock."""
    dvc, other = Repository(project), Repository(project)
    dvc.stopped.set()
    with other._repo.lock, pytest.raises(ClusterError, match="^the run was ended while another command"):
        dvc.ignore_outputs({"b"})


@pytest.mark.parametrize("when", ["before", "while"])
def test_nothing_is_recorded_of_a_command_whose_code_changed(project, monkeypatch, when):
    """Neither in dvc.lock nor in the run cache: DVC would take the new code's digest for what the old one made."""
    ran = project / "log"

    def look():
        if when == "before" or ran.exists():
            raise CodeChangedError("the code changed")

    dvc = Repository(project)
    monkeypatch.setattr(repository, "require_loaded_code", look)
    with pytest.raises(CodeChangedError, match="^the code changed$"):
        dvc.reproduce("b")
    assert ran.exists() == (when == "while") and not (project / "dvc.lock").exists()
    assert Repository(project).state("b") == "changed"


def test_results_that_are_being_written_are_left_alone(project):
    """A dvc.lock that is cut off is mended under DVC's lock only: another command may be at it."""
    Repository(project).reproduce("b")
    whole = (project / "dvc.lock").read_bytes()
    (project / "dvc.lock").write_bytes(b"")
    with DvcRepo(str(project)).lock:
        (line,) = mending.mend_results(project)
        assert "at work on it just now" in line and mending.MENDED not in line
        assert (project / "dvc.lock").read_bytes() == b""
        (project / "dvc.lock").write_bytes(whole)
    assert list(mending.mend_results(project)) == [] and (project / "dvc.lock").read_bytes() == whole


def test_what_was_written_while_the_lock_was_waited_for_stays(project, monkeypatch):
    """It is read again: what was cut off at first was being written."""
    Repository(project).reproduce("b")
    whole, path = (project / "dvc.lock").read_bytes(), project / "dvc.lock"
    path.write_bytes(whole[:20])
    lock = DvcRepo(str(project)).lock
    lock.lock()
    threading.Timer(1.0, lambda: (path.write_bytes(whole), lock.unlock())).start()
    assert list(mending.mend_results(project)) == [] and path.read_bytes() == whole


def test_a_folder_without_dvc_is_named(tmp_path):
    """As from an archive before `dvc init`."""
    with pytest.raises(ArtifactError, match="DVC cannot read this folder"):
        Repository(tmp_path)


def test_a_data_set_of_unknown_size_has_no_plan_yet(toy):
    """The order is then that of the graph's longest chain."""
    params = toy()
    data = params.data.model_copy(update={"source": "imagefolder", "path": "nowhere"})
    assert plan(params.model_copy(update={"data": data}), Path("nowhere")) == ({}, {})
