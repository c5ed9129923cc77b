"""``ims3 doctor``: what it says, what it calls a fault, and how it mends the lock of DVC."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ims3core import WAITING, cli
from ims3core.pipeline import doctor, mending

REPOSITORY = Path(__file__).resolve().parents[2]

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
NOBODY = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture
def lock(tmp_path):
    """A function that writes the lock file of a DVC folder and returns its path."""
    folder = tmp_path / ".dvc/tmp"
    folder.mkdir(parents=True)

    def write(content):
        (folder / "rwlock").write_text(content if isinstance(content, str) else json.dumps(content))
        return folder / "rwlock"

    return write


def entry(pid, command="/bin/dvc repro"):
    return {"pid": pid, "cmd": command}


@pytest.mark.parametrize("content", ["", "{", '{"write": {"/a": 3}}', "[]", '{"read": {"/a": [{"pid": "x"}]}}'])
def test_a_damaged_lock_is_removed_and_dvc_works_again(lock, content):
    """DVC writes the file in place, so that a kill leaves it empty or cut; one line says what was done."""
    path = lock(content)
    [line] = mending.mend_lock(path.parent)
    assert "damaged" in line and not line.startswith(mending.FAULT) and not path.exists()


@pytest.mark.parametrize("cut", [b"schema", b"2.0", b"    cmd:"])  # before which it ends
@pytest.mark.parametrize("committed", [True, False])
def test_results_that_a_kill_cut_off_are_the_last_commits_again(tmp_path, cut, committed):
    """DVC writes dvc.lock in place after every stage; where it can read what is there, nothing is touched."""
    whole, path = (REPOSITORY / "dvc.lock").read_bytes(), tmp_path / "dvc.lock"
    path.write_bytes(whole)
    if committed:
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)
    path.write_bytes(whole + b"\n")
    assert list(mending.mend_results(tmp_path)) == [] and path.read_bytes() == whole + b"\n"
    path.write_bytes(whole.partition(cut)[0])
    [line] = mending.mend_results(tmp_path)
    assert mending.MENDED in line and not line.startswith(mending.FAULT)
    assert path.read_bytes() == whole if committed else not path.exists()


def test_dvc_itself_fails_on_an_empty_lock_and_not_after_doctor(lock, tmp_path):
    """The fault is real: this is DVC as installed."""
    path = lock("")
    command = [sys.executable, "-m", "dvc", "repro"]
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo 1}}\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0
    list(mending.mend_lock(path.parent))
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)


def test_only_entries_of_processes_that_ended_are_removed(lock):
    """The others stay and are named; a number that now belongs to another program counts as ended."""
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()", "repro"], **PIPES) as alive:
        alive.stdout.readline()
        path = lock({
            "write": {"/a": entry(NOBODY), "/b": entry(alive.pid)},
            "read": {"/c": [entry(NOBODY), entry(alive.pid)], "/d": [entry(alive.pid, "/bin/dvc exp run other")]},
        })  # fmt: skip
        lines = list(mending.mend_lock(path.parent))
        alive.communicate(b"\n")
    assert f"held by process {alive.pid}, {NOBODY}, which has ended" in lines[0]
    assert json.loads(path.read_text()) == {"write": {"/b": entry(alive.pid)}, "read": {"/c": [entry(alive.pid)]}}
    assert len(lines) == 2 and f"held by process {alive.pid}: " in lines[1]


def test_a_lock_that_holds_nothing_stays_silent(lock, tmp_path):
    """So does a folder without one."""
    path = lock({"write": {}, "read": {}})
    assert list(mending.mend_lock(path.parent)) == [] == list(mending.mend_lock(tmp_path / "none"))
    assert json.loads(path.read_text()) == {"write": {}, "read": {}}


def test_a_dvc_that_is_editing_its_lock_is_left_alone(lock):
    """It holds a lock on a file beside it, which doctor takes too."""
    path = lock("")
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(path.with_name("rwlock.lock"))]
    with subprocess.Popen(command, **PIPES) as other:
        other.stdout.readline()
        [line] = mending.mend_lock(path.parent)
        other.communicate(b"\n")
    assert "at work" in line and path.exists()


@pytest.fixture
def checkout(toy, tmp_path, monkeypatch):
    """The toy project, with a git commit and DVC; the interpreter of these tests is first on PATH."""
    toy()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], [*git, "commit", "-qm", "one"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor, "_stated_version", lambda root: None)
    for name in ("WORLD_SIZE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def say(capsys):
    """The lines of ``ims3 doctor`` by their first word, and the exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    out = capsys.readouterr().out
    return {line[2:18].strip(): line for line in out.splitlines()}, stop.value.code


def test_a_sound_machine_has_no_fault(checkout, capsys):
    """Everything that an issue needs is in plain text: versions, device, precision and why, compiler, git, disk."""
    lines, code = say(capsys)
    assert code == 0, lines
    assert "\x1b" not in "".join(lines.values())
    names = (
        "python",
        "ims3",
        "torch",
        "device",
        "precision",
        "compiler",
        "threads",
        "dvc",
        "git",
        "scratch",
        "dvc cache",
    )
    assert set(names) <= set(lines) and not any(line.startswith("!") for line in lines.values())
    assert "compute.precision: fp32; as params.yaml says" in lines["precision"]
    assert "GB free" in lines["compiled"] and "commit " in lines["git"]


@pytest.mark.parametrize(
    ("own", "wanted"),
    [({}, "GOMP_SPINCOUNT=1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY=ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, "GOMP_SPINCOUNT=9")],
)  # fmt: skip
def test_idle_threads_sleep_soon_unless_the_user_wants_otherwise(toy, tmp_path, own, wanted):
    """Said before torch is loaded, which reads it then; the line of threads has what holds, and nothing else."""
    toy()
    env = {name: value for name, value in os.environ.items() if name not in WAITING} | own
    code = (
        "import ims3core, sys, pathlib; assert 'torch' not in sys.modules; from ims3core.pipeline import doctor; "
        "print([line for line in doctor._machine(pathlib.Path()) if line[2:].startswith('threads')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(f"(compute.threads: 1); {wanted}']"), done.stdout


def test_automatic_precision_says_why(toy, tmp_path):
    """The device computes bf16 quickly or does not."""
    toy(compute__precision="auto")
    [line] = [line for line in doctor._machine(tmp_path) if line[2:].startswith("precision")]
    assert (
        "compute.precision: auto; " in line
        and ("this processor" in line or "this GPU" in line)
        and "bf16 quickly" in line
    )


@pytest.mark.parametrize(
    ("spoil", "part", "name", "text"),
    [
        (lambda root, patch: patch.setenv("WORLD_SIZE", "2"), "conflicts", "WORLD_SIZE", "would wait for other processes"),
        (lambda root, patch: patch.setenv("HF_HUB_CACHE", str(root / "params.yaml/hub")), "disk", "hub", "cannot be written"),
        (lambda root, patch: patch.setenv("PATH", "/nowhere"), "conflicts", "python", "on PATH: none: dvc.yaml's commands"),
        (lambda root, patch: patch.setattr(doctor, "_requirements", lambda: ["numpy<1"]), "conflicts", "numpy", "needs <1"),
        (lambda root, patch: patch.setattr(doctor, "_stated_version", lambda root: "9"), "software", "ims3", "folder is 9"),
        (lambda root, patch: (root / "params.yaml").write_text("seed: 0"), "machine", "params.yaml", "missing"),
        (lambda root, patch: (root / "ims3core").mkdir(), "conflicts", "code", "not of this folder"),
        (lambda root, patch: patch.setattr(doctor, "LEAST_FREE", 1 << 60), "disk", "scratch", "the disk is full"),
        (lambda root, patch: None, "dvc", "dvc", "no .dvc folder here"),
    ],
    ids=["launched", "cache", "path", "bounds", "stale", "params", "code", "disk", "dvc"],
)  # fmt: skip
def test_a_fault_is_marked_and_named(toy, tmp_path, monkeypatch, spoil, part, name, text):
    """One line each, with what to do."""
    toy()
    monkeypatch.setattr(doctor, "_device", lambda machine, asked: iter(()))  # seconds, and tested above
    spoil(tmp_path, monkeypatch)
    lines = getattr(doctor, f"_{part}")(*(tmp_path, None)[: 2 if part == "disk" else 1])
    faults = [line for line in lines if line.startswith(mending.FAULT)]
    assert any(line[2:18].strip() == name and text in line for line in faults), faults


def test_without_git_it_says_how_dvc_works(checkout, monkeypatch):
    """And is content once that was done."""
    (checkout / ".git").rename(checkout / "away")
    [line] = doctor._git(checkout)
    assert line.startswith(mending.FAULT) and "`dvc config core.no_scm true`" in line
    (checkout / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    [line] = doctor._git(checkout)
    assert not line.startswith(mending.FAULT) and "`ims3 study`" in line
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    [line] = doctor._git(checkout)
    assert "git" in line and "not installed" in line


def test_a_broken_installation_is_a_line_and_no_traceback(toy, tmp_path, monkeypatch):
    """Such as a torchvision that was built for another torch."""
    toy()

    def fails(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "importlib", SimpleNamespace(import_module=fails))
    lines = list(doctor._machine(tmp_path))
    assert lines[-1].startswith(mending.FAULT) and "RuntimeError: operator torchvision::nms does not exist" in lines[-1]


def test_the_command_ends_with_1_where_something_is_to_do(checkout, capsys, monkeypatch):
    """Scripts can ask."""
    monkeypatch.setattr(
        doctor, "examine", lambda root: iter(["  all well", f"{mending.FAULT}one", f"{mending.FAULT}two"])
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 lines marked with !: something to do"
