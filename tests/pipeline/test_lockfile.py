"""What is noted of a stage in dvc.lock: the bytes of DVC itself, whatever was there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ims3core.pipeline import lockfile
from ims3core.pipeline.repository import Repository

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # of a library of DVC
NAMES = ("a", "ab", "many@x-1", "many@x-10")
STAGES = {
    "a": {"cmd": "cp in a", "deps": ["in"], "params": ["value"], "outs": ["a"]},
    "ab": {"cmd": "cp a ab", "deps": ["a"], "outs": ["ab"]},
    "many": {
        "matrix": {"of": ["x"], "n": [1, 10]},
        "cmd": "cp in many-${item.n}",
        "deps": ["in"],
        "params": ["other"],
        "outs": ["many-${item.n}"],
    },
}
TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), include_characters="\n\t"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([0.5, 1e-06, 2.5e-05, 1e20, 3.0]) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Four stages that have not run."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    Path("params.yaml").write_text(yaml.safe_dump({"value": 1, "other": "two"}))
    Path("in").write_text("1")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    return tmp_path


def stages(*names):
    """Those stages, as they are now."""
    for name in ("a", "ab", "many-1", "many-10"):
        Path(name).write_text(Path("in").read_text())
    repo = Repo(".")
    found = {stage.addressing: stage for stage in repo.index.stages}
    with repo.lock:
        for name in names:
            found[name].save()
    return [found[name] for name in names]


def both(*wanted):
    """dvc.lock after the stages have been noted, by DVC and by us, from the file that is there."""
    path = Path("dvc.lock")
    before = path.read_bytes() if path.exists() else None
    results = []
    for note in (lambda stage: stage.dump(update_pipeline=False), lockfile.record):
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
        for stage in wanted:
            with stage.repo.lock:
                note(stage)
        results.append(path.read_bytes())
    return results


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=st.lists(st.permutations(NAMES), min_size=1, max_size=2), values=st.lists(VALUES, min_size=2, max_size=2))
def test_the_bytes_are_those_of_dvc(project, orders, values):
    """In whatever order stages end, new or again, with parameters of any kind.

    Floats of 17 digits are left out: of these DVC changes the last one when it writes another stage.
    """
    Path("dvc.lock").unlink(missing_ok=True)
    for n, order in enumerate(orders):
        Path("in").write_text(str(n))
        Path("params.yaml").write_text(yaml.safe_dump({"value": values[n % 2], "other": "two"}))
        by_dvc, by_us = both(*stages(*order))
        assert by_us == by_dvc


@pytest.mark.parametrize("extra", ["# mine\n", "  # mine\n", "datasets: []\n"])
def test_comments_and_other_sections_stay_as_dvc_keeps_them(project, extra):
    """DVC itself writes such a file."""
    both(*stages(*NAMES))
    path = Path("dvc.lock")
    path.write_text(path.read_text() + extra)
    Path("in").write_text("other")
    by_dvc, by_us = both(*stages("ab"))
    assert by_us == by_dvc and extra.strip() in by_us.decode()


def test_a_last_line_without_an_end_is_left_to_dvc(project):
    """Else the next stage would begin in it."""
    both(*stages("a"))
    path = Path("dvc.lock")
    path.write_text(path.read_text().rstrip("\n"))
    by_dvc, by_us = both(*stages("ab"))
    assert by_us == by_dvc and "\n  ab:\n" in by_us.decode()


def test_a_disk_that_fails_leaves_the_whole_former_lock(project, monkeypatch):
    """As does a kill: the new one takes its place in one step."""
    both(*stages("a"))
    before = Path("dvc.lock").read_bytes()
    (stage,) = stages("ab")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"dvc\.lock"):
        lockfile.record(stage)
    assert Path("dvc.lock").read_bytes() == before and not list(Path().glob(".dvc.lock*"))


def test_a_run_notes_its_stages_so(project, monkeypatch):
    """DVC's own way of it, which takes a second in a large grid, is not taken."""
    monkeypatch.setattr(Lockfile, "dump_stages", None)
    Repository(project).reproduce("a")
    assert Repository(project).state("a") == "same"


def test_what_is_the_same_is_not_written(project):
    """Nor announced to Git."""
    (stage,) = stages("a")
    both(stage)
    before = Path("dvc.lock").stat()
    lockfile.record(stage)
    after = Path("dvc.lock").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_stages_cost_nothing(project):
    """Their entries are neither parsed nor printed: they may even be what DVC could not read."""
    (stage,) = stages("a")
    lines = lockfile.entry(stage)
    others = "".join(f"  stage{n}:\n    cmd: {{[ n{n}\n" for n in range(3))
    assert lockfile.with_entry(lockfile.HEAD + others, lines) == lockfile.HEAD + others + lines
    old = lines.replace("cp in a", "cp in b")
    found = lockfile.with_entry(lockfile.HEAD + old + others, lines)
    assert found == lockfile.HEAD + lines + others
