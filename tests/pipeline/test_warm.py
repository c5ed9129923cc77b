"""Under DVC the first command of a run leaves a server behind for the next ones."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ims3core.pipeline import launching, warm
from ims3core.pipeline.served import served, stat

REPOSITORY = Path(__file__).parents[2]
COMMAND = """
import os, sys, time
from ims3core.pipeline import warm
from ims3core.pipeline.served import served

def main(words):
    try:
        print(os.getpid(), os.getppid(), os.getcwd(), os.environ["DVC_STAGE"], *words, flush="full" not in words)
        if words[0] == "wait":
            time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(int(words[1]))

def slowly():
    child = begin()
    if child and os.path.exists("slow"):
        time.sleep(0.5)
    return child

begin, os.fork = os.fork, slowly
dvc = served()
if (code := warm.ask(sys.argv[1:], dvc)) is not None:
    sys.exit(code)
if dvc:
    if sys.argv[1] == "load":
        print(os.getpid(), flush=True)
        time.sleep(1)
    warm.leave_behind(dvc, main, lambda: not os.path.exists("changed"))
main(sys.argv[1:])
"""
# What DVC does: commands one after the other, from one process. Each line of its input is one; `!` is not waited for.
DVC = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
for line in sys.stdin:
    environment = os.environ | {"DVC_STAGE": "stage"}
    if line.startswith("environment"):
        os.environ.update([line.split()[1].split("=")])
        continue
    words = line.strip("!\\n").split()
    print("begins", flush=True)
    where = open("/dev/full", "w") if "full" in words else None
    process = subprocess.Popen([sys.executable, "command.py", *words], env=environment, stdout=where)
    if not line.startswith("!"):
        print("code", process.wait(), flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of sockets without files are Linux's")


class Dvc:
    """A process that runs commands as DVC does."""

    def __init__(self, folder: Path) -> None:
        (folder / "command.py").write_text(COMMAND)
        other = {launching.SOCKET, launching.LAUNCHED, "PYTHONUNBUFFERED"}
        environment = {name: value for name, value in os.environ.items() if name not in other}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DVC], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment | {"PYTHONPATH": str(REPOSITORY)}, start_new_session=True,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        """Has a command begin."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "begins\n"

    def begin(self, line: str) -> list[str]:
        """What the command prints first: its process and that one's parent, its folder, its stage, its words."""
        self.tell(line)
        return self.process.stdout.readline().split()

    def code(self) -> int:
        """The exit code of the command."""
        word, code = self.process.stdout.readline().split()
        assert word == "code"
        return int(code)

    def run(self, line: str) -> tuple[list[str], int]:
        """What the command prints, and its exit code."""
        return self.begin(line), self.code()

    def server(self) -> int:
        """The first command, a child of DVC, leaves it behind; the second is its child."""
        first, _ = self.run("exit 0")
        second, _ = self.run("exit 0")
        assert first[1] == str(self.process.pid) != second[1]
        return int(second[1])


@pytest.fixture
def dvc(tmp_path):
    found = Dvc(tmp_path)
    yield found
    os.killpg(found.process.pid, signal.SIGKILL)
    found.process.wait()
    for stream in (found.process.stdin, found.process.stdout):
        stream.close()


def ends(process: int, within: float = 5.0) -> bool:
    """Whether a process is gone, or a zombie that nobody waits for."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if stat(process, 0) in {"", "Z"}:
            return True
        time.sleep(0.05)
    return False


def children(process: int) -> list[int]:
    """The processes that one has begun."""
    found = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [number for number in found if stat(number, 1) == str(process)]


def test_later_commands_are_copies_of_the_first_one(dvc, tmp_path):
    """With their own words, folder and environment, output and exit code."""
    server = dvc.server()
    for code in (3, 0):
        printed, found = dvc.run(f"exit {code}")
        assert printed[1:] == [str(server), str(tmp_path), "stage", "exit", str(code)] and found == code


def test_the_server_holds_nothing_open_that_dvc_has(dvc):
    """Whoever reads what DVC prints sees its end."""
    server = dvc.server()
    held = {Path(f"/proc/{server}/fd/{handle}").readlink() for handle in (0, 1, 2)}
    assert held == {Path(os.devnull)}


def test_the_server_ends_with_dvc_though_nobody_waits_for_that(dvc):
    """A zombie counts as gone: not every first process of a container looks after others'."""
    server = dvc.server()
    os.kill(dvc.process.pid, signal.SIGKILL)
    assert ends(server) and stat(dvc.process.pid, 0) == "Z"


def test_nothing_is_left_behind_by_a_command_whose_dvc_is_killed_while_it_loads(dvc):
    """Nobody would ever end it."""
    (loading,) = dvc.begin("!load 0")
    os.kill(dvc.process.pid, signal.SIGKILL)
    assert dvc.process.stdout.readline().split()[4:] == ["load", "0"]
    assert ends(int(loading)) and children(int(loading)) == []
    assert dvc.process.stdout.read() == ""


def test_a_command_whose_asker_is_killed_ends(dvc):
    """Nothing that DVC has given up goes on computing; the server does."""
    server = dvc.server()
    printed = dvc.begin("!wait 0")
    (asker,) = children(dvc.process.pid)
    os.kill(asker, signal.SIGKILL)
    assert ends(int(printed[0]))
    again, _ = dvc.run("exit 0")
    assert again[1] == str(server)


def test_a_command_whose_server_is_killed_ends_and_fails(dvc):
    """As one does that memory has run out for; the next one runs by itself."""
    server = dvc.server()
    printed = dvc.begin("wait 0")
    os.kill(server, signal.SIGKILL)
    assert dvc.code() == 1 and ends(int(printed[0]))
    again, code = dvc.run("exit 0")
    assert again[1] == str(dvc.process.pid) and code == 0


def test_a_command_is_begun_once_though_its_server_is_killed_just_then(dvc, tmp_path):
    """The asker knows that it has begun before it does anything, however long the server takes to go on."""
    server = dvc.server()
    (tmp_path / "slow").touch()
    printed = dvc.begin("wait 0")
    os.kill(server, signal.SIGKILL)
    assert printed[1] == str(server) and dvc.code() == 1 and ends(int(printed[0]))


def test_ctrl_c_ends_the_command_as_it_ends_it_elsewhere(dvc):
    """It reaches all of the terminal's processes: the command decides, the server stays."""
    server = dvc.server()
    printed = dvc.begin("wait 0")
    for process in (*children(dvc.process.pid), int(printed[0]), server):
        os.kill(process, signal.SIGINT)
    assert dvc.code() == 130
    assert dvc.run("exit 0")[0][1] == str(server)


def test_output_that_cannot_be_written_is_no_success(dvc):
    """A full disk under ``dvc repro > log``: Python's code where it is its own process, the command's where it has one."""
    dvc.server()
    for words, code in (("exit 0 full", 120), ("exit 3 full", 3)):
        dvc.tell(words)
        assert dvc.code() == code


def test_only_commands_of_its_dvc_are_served(dvc):
    """Names without a file are anybody's; who connects and says nothing does not hold up the others."""
    server = dvc.server()
    with socket.socket(socket.AF_UNIX) as stranger:
        name = next(
            line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()
            if f"@ims3-{os.getuid()}-{dvc.process.pid}-" in line
        )  # fmt: skip
        stranger.connect("\0" + name[1:])
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
    assert dvc.run("exit 0")[0][1] == str(server)


def test_after_a_change_of_code_another_server_is_left_behind(dvc, tmp_path):
    """The old one ends, the command runs by itself."""
    server = dvc.server()
    (tmp_path / "changed").touch()
    printed, _ = dvc.run("exit 0")
    assert printed[1] == str(dvc.process.pid) and ends(server)


@pytest.mark.parametrize("variable", ["WORLD_SIZE=2", f"{launching.LAUNCHED}=1"])
def test_processes_of_a_launcher_neither_ask_nor_serve(dvc, variable):
    """They are several of one command."""
    dvc.process.stdin.write(f"environment {variable}\n")
    for _ in range(2):
        printed, _ = dvc.run("exit 0")
        assert printed[1] == str(dvc.process.pid)


def test_a_copy_finds_what_a_process_of_its_own_finds(tmp_path):
    """Device, compiler, caches and variables: loading sets some, which the copy has where its asker does not."""
    program = """
import os, subprocess, sys
command = [sys.executable, "-m", "ims3core", "doctor"]
for own in ({}, {"DVC_STAGE": "stage"}, {"DVC_STAGE": "stage"}):
    print(subprocess.run(command, env=os.environ | own, capture_output=True, text=True).stdout, end="|")
    server = f"@ims3-{os.getuid()}-{os.getpid()}-" in open("/proc/net/unix").read()
    assert server == bool(own), "a server is left behind by the second command"
"""
    own = {name: value for name, value in os.environ.items() if name not in {launching.SOCKET, launching.LAUNCHED}}
    own.pop("TORCHINDUCTOR_CACHE_DIR", None)
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=own | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    alone, first, copy, _ = re.sub(r"[\d,.]+ GB free", "", found.stdout).split("|")
    assert alone == first == copy and "compiler" in alone


def test_without_dvc_nothing_is_left_behind(monkeypatch):
    """A command that a person runs is what it was."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv(launching.SOCKET, raising=False)
    assert served() is None and warm.ask(["prepare"]) is None


@pytest.mark.parametrize("sent", [b"", b"\x00\x00\x00\x09[["])
def test_an_asker_that_is_killed_before_it_has_asked_leaves_the_server_at_work(sent):
    """Whatever of its request has arrived, and whether or not it has read the server's answer."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.sendall(sent)
        one.close()
        with contextlib.suppress(OSError):
            assert warm._request(other) is None


def test_what_cannot_be_loaded_fails_in_the_stage_that_needs_it(monkeypatch, tmp_path):
    """Not in every other one."""
    monkeypatch.setattr(warm, "MODULES", ("ims3core.of_no_such_name",))
    assert not warm.load("select", tmp_path)


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
