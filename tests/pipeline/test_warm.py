"""Under DVC the first command of a run leaves a server behind for the next ones."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ims3core.pipeline import launching, warm

REPOSITORY = Path(__file__).parents[2]
COMMAND = """
import os, sys, time
from ims3core.pipeline import warm

def main(words):
    try:
        print(os.getpid(), os.getppid(), os.getcwd(), os.environ["DVC_STAGE"], *words, flush=True)
        if words[0] == "wait":
            time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(int(words[1]))

if (code := warm.ask(sys.argv[1:])) is not None:
    sys.exit(code)
if warm.is_run_by_dvc():
    warm.leave_behind(main, lambda: not os.path.exists("changed"))
main(sys.argv[1:])
"""
# What DVC does: commands one after the other, from one process. Each line of its input is one; `!` is not waited for.
DVC = """
import os, subprocess, sys
for line in sys.stdin:
    environment = os.environ | {"DVC_STAGE": "stage"}
    if line.startswith("environment"):
        os.environ.update([line.split()[1].split("=")])
        continue
    process = subprocess.Popen([sys.executable, "command.py", *line.strip("!\\n").split()], env=environment)
    print("asker", process.pid, flush=True)
    if not line.startswith("!"):
        print("code", process.wait(), flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of sockets without files are Linux's")


class Dvc:
    """A process that runs commands as DVC does."""

    def __init__(self, folder: Path) -> None:
        (folder / "command.py").write_text(COMMAND)
        environment = {k: v for k, v in os.environ.items() if k not in {launching.SOCKET, launching.LAUNCHED}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DVC], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment | {"PYTHONPATH": str(REPOSITORY)}, start_new_session=True,
        )  # fmt: skip

    def begin(self, line: str) -> tuple[int, list[str]]:
        """The process that asks, and what the command prints first."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found = self.process.stdout.readline().split()
        assert found[0] == "asker"
        return int(found[1]), self.process.stdout.readline().split()

    def run(self, line: str) -> tuple[int, list[str], int]:
        """The process that asks, what the command prints, and the exit code."""
        asker, printed = self.begin(line)
        found = self.process.stdout.readline().split()
        assert found[0] == "code"
        return asker, printed, int(found[1])

    def server(self) -> int:
        """The first command leaves it behind; the second is its child."""
        first, printed, _ = self.run("exit 0")
        assert printed[:2] == [str(first), str(self.process.pid)]
        asker, printed, _ = self.run("exit 0")
        assert int(printed[0]) != asker
        return int(printed[1])


@pytest.fixture
def dvc(tmp_path):
    found = Dvc(tmp_path)
    yield found
    found.process.kill()
    found.process.wait()
    for stream in (found.process.stdin, found.process.stdout):
        stream.close()


def ends(process: int, within: float = 5.0) -> bool:
    """Whether a process is gone, or a zombie that nobody waits for."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_later_commands_are_copies_of_the_first_one(dvc, tmp_path):
    """With their own words, folder and environment, output and exit code."""
    server = dvc.server()
    for code in (3, 0):
        _, printed, found = dvc.run(f"exit {code}")
        assert printed[1:] == [str(server), str(tmp_path), "stage", "exit", str(code)] and found == code


def test_the_server_ends_with_dvc_and_holds_nothing_open(dvc):
    """Whoever reads what DVC prints sees its end at once, while the server looks about it once a second."""
    server = dvc.server()
    dvc.process.stdin.close()
    assert dvc.process.stdout.read() == ""
    dvc.process.wait(5)
    assert ends(server)


def test_a_command_whose_asker_is_killed_ends(dvc):
    """Nothing that DVC has given up goes on computing; the server does."""
    server = dvc.server()
    asker, printed = dvc.begin("!wait 0")
    os.kill(asker, signal.SIGKILL)
    assert ends(int(printed[0]))
    _, again, _ = dvc.run("exit 0")
    assert again[1] == str(server)


def test_ctrl_c_ends_the_command_as_it_ends_it_elsewhere(dvc):
    """It reaches all of the terminal's processes: the command decides, the server stays."""
    server = dvc.server()
    asker, printed = dvc.begin("wait 0")
    for process in (asker, int(printed[0]), server):
        os.kill(process, signal.SIGINT)
    assert dvc.process.stdout.readline().split() == ["code", "130"]
    assert dvc.run("exit 0")[1][1] == str(server)


def test_after_a_change_of_code_another_server_is_left_behind(dvc, tmp_path):
    """The old one ends, the command runs by itself."""
    server = dvc.server()
    (tmp_path / "changed").touch()
    asker, printed, _ = dvc.run("exit 0")
    assert printed[0] == str(asker) and ends(server)


@pytest.mark.parametrize("variable", ["WORLD_SIZE=2", f"{launching.LAUNCHED}=1"])
def test_processes_of_a_launcher_neither_ask_nor_serve(dvc, variable):
    """They are several of one command."""
    dvc.process.stdin.write(f"environment {variable}\n")
    for _ in range(2):
        asker, printed, _ = dvc.run("exit 0")
        assert printed[:2] == [str(asker), str(dvc.process.pid)]


def test_a_copy_finds_what_a_process_of_its_own_finds(tmp_path):
    """Device, compiler, caches and variables: loading sets some, which the copy has where its asker does not."""
    program = """
import os, subprocess, sys
environment = os.environ | {"DVC_STAGE": "stage"}
for _ in range(2):
    command = [sys.executable, "-m", "ims3core", "doctor"]
    print(subprocess.run(command, env=environment, capture_output=True, text=True).stdout, end="|")
"""
    own = {name: value for name, value in os.environ.items() if name not in {launching.SOCKET, launching.LAUNCHED}}
    own.pop("TORCHINDUCTOR_CACHE_DIR", None)
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=own | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, _ = re.sub(r"[\d,.]+ GB free", "", found.stdout).split("|")
    assert first == second and "compiler" in first


def test_without_dvc_nothing_is_left_behind(monkeypatch):
    """A command that a person runs is what it was."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv(launching.SOCKET, raising=False)
    assert not warm.is_run_by_dvc() and warm.ask(["prepare"]) is None


def test_a_server_of_another_user_is_not_asked(monkeypatch):
    """Its name could be taken by anybody."""
    ours = os.getuid()
    monkeypatch.setattr(warm.os, "getuid", lambda: ours + 1)
    one, other = warm.socket.socketpair()
    with one, other:
        assert not warm._is_ours(one)


@pytest.mark.parametrize("sent", [b"", b"\x00\x00\x00\x09[["])
def test_an_asker_that_is_killed_before_it_has_asked_leaves_the_server_at_work(sent, monkeypatch):
    """Whatever of its request has arrived."""
    monkeypatch.setattr(warm.os, "fork", None)
    one, other = warm.socket.socketpair()
    with one, other:
        one.sendall(sent)
        one.close()
        warm._answer(other, other, None)


def test_where_a_gpu_may_be_nothing_is_loaded_that_asks_for_one(tmp_path):
    """A copy of a process that has asked for a GPU cannot use it; diffusers asks while it is loaded."""
    assert warm.VAE in warm.modules("generator", tmp_path) and warm.VAE not in warm.modules("select", tmp_path)
    (tmp_path / "nvidia0").touch()
    assert warm.modules("generator", tmp_path) == warm.MODULES
    program = """
import importlib, sys
import torch
from ims3core.pipeline import warm

def asked():
    sys.exit("a GPU was asked for")

torch._C._cuda_getDeviceCount = asked
import ims3core.cli
for name in warm.MODULES:
    importlib.import_module(name)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
