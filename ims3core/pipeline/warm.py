"""A process that has loaded everything, of which every command of ours is a copy: a start-up is paid once, not a stage.

``ims3 repro`` starts one and names its socket in the environment. Under ``dvc repro`` and ``dvc exp run`` the first
command leaves a copy of itself behind, whose socket is named after the DVC process. ``python -m ims3core`` asks it:
a command runs in a process of its own with the asker's folder, environment, output and exit code, and ends where the
asker is killed. The server computes nothing itself, so that no library has begun threads, and ends with the process
that it serves.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ims3core.pipeline.launching import LAUNCHED, SOCKET

SERVE = "--serve-warm"  # the argument with which ``python -m ims3core`` becomes the server
Main = Callable[[list[str]], object]
MODULES = ("ims3core.pipeline.harness", "torch", "stages.students", "stages.select", "stages.coverage")
VAE = "diffusers.models.autoencoders.autoencoder_kl"  # takes as long to load as torch
BEFORE_CANDIDATES = ("prepare", "generator", "latents", "finetune", "guides", "candidates")
BEGUN = dict(os.environ)  # before more is loaded, which sets variables
GPUS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd", "dri/render*")  # files of /dev


def ask(arguments: list[str]) -> int | None:
    """The exit code of the command, run by the server; None where there is none."""
    address = os.environ.get(SOCKET) or _of_dvc()
    if address is None or {"WORLD_SIZE", LAUNCHED} & os.environ.keys():
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            if not _is_ours(server) or not server.recv(1):  # it has other code than this process would load
                return None
        except OSError:
            return None
        request = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
        handles = array.array("i", [1, 2])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command itself, whose end is waited for
        server.sendmsg([len(request).to_bytes(4)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
        server.sendall(request)
        answer = server.recv(1)
    return answer[0] if answer else 1


def is_run_by_dvc() -> bool:
    """Whether this is the command of a stage that DVC runs, and may leave a server behind for the next ones."""
    return _of_dvc() is not None and not {"WORLD_SIZE", LAUNCHED, SOCKET} & os.environ.keys()


def modules(command: str, devices: Path = Path("/dev")) -> tuple[str, ...]:
    """What a server loads whose first command is this one: what commands from there on need.

    diffusers asks for a GPU when it is loaded; copies of a process that did so cannot use one.
    """
    draws = command in BEFORE_CANDIDATES and not any(next(devices.glob(name), None) for name in GPUS)
    return (*MODULES, VAE) if draws else MODULES


def leave_behind(main: Main, is_current: Callable[[], bool]) -> None:
    """A copy of this process goes on as the server of the commands that the same DVC process will run."""
    address, dvc = _of_dvc(), os.getppid()
    sys.stdout.flush()
    sys.stderr.flush()
    if address is None or os.fork():
        return
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for its commands, not for it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):  # whoever reads what DVC prints shall see its end
            os.dup2(nowhere, handle)
        began = _began(dvc)
        with contextlib.suppress(OSError):  # another one serves already
            serve(address, main, is_current, lambda: _began(dvc) == began)
    finally:
        os._exit(0)


def _of_dvc() -> str | None:
    """The address of the server of the DVC process that runs this command; None where none does.

    A name of Linux without a file, so that nothing is left to delete.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return None
    dvc = os.getppid()
    return f"\0ims3-{os.getuid()}-{dvc}-{_began(dvc)}-{sys.prefix}"[:100]


def _began(process: int) -> str:
    """When a process began, which tells it from a later one of its number; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_ours(server: socket.socket) -> bool:
    """Whether the server belongs to this user: names without a file are anybody's."""
    if sys.platform != "linux":
        return True
    _, user, _ = struct.unpack("3i", server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """A server for the commands that this process, and what it starts, run in the meantime."""
    with tempfile.TemporaryDirectory(prefix="ims3-") as folder:
        path = str(Path(folder, "socket"))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for its commands, not for it
        try:
            process = subprocess.Popen([sys.executable, "-m", "ims3core", SERVE, path], stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ[SOCKET] = path
        try:
            yield
        finally:
            del os.environ[SOCKET]
            process.terminate()
            process.wait()


def serve(address: str, main: Main, is_current: Callable[[], bool], is_wanted: Callable[[], bool]) -> None:
    """Runs commands by ``main`` until they are not wanted any more.

    Where the code that this process has loaded is not current any more it ends, and commands run by themselves.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        server.settimeout(1.0)
        while is_wanted():
            try:
                asker, _ = server.accept()
            except TimeoutError:
                continue
            with asker:
                if not is_current():
                    return
                asker.setblocking(True)
                with contextlib.suppress(OSError):
                    asker.sendall(b"+")
                _answer(asker, server, main)


def _answer(asker: socket.socket, server: socket.socket, main: Main) -> None:
    """Runs one command in a copy of this process, which ends early where the asker does."""
    size, rights, *_ = asker.recvmsg(4, socket.CMSG_SPACE(8))
    handles = array.array("i", rights[0][2]) if rights else []
    with asker.makefile("rb") as stream:
        request = stream.read(int.from_bytes(size))
    if len(request) < max(1, int.from_bytes(size)):  # killed in the meantime
        for handle in handles:
            os.close(handle)
        return
    arguments, folder, environment = json.loads(request)
    ended, runs = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            server.close()
            os.close(ended)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for number, handle in zip((1, 2), handles, strict=True):
                os.dup2(handle, number)
            os.chdir(folder)
            environment = _with_loaded(environment)
            os.environ.clear()
            os.environ.update(environment)
            code = run(main, arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for handle in (*handles, runs):
        os.close(handle)
    if ended not in select.select([ended, asker.fileno()], [], [])[0]:  # all an asker says later is that it is gone
        os.kill(child, signal.SIGTERM)
    os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the asker was killed
        asker.sendall(bytes([code if code >= 0 else 128 - code]))


def _with_loaded(environment: dict[str, str]) -> dict[str, str]:
    """An asker's environment, with what loading has set here and would have set there."""
    own = {name: value for name, value in os.environ.items() if environment.get(name) == BEGUN.get(name) != value}
    return environment | own


def run(main: Main, arguments: list[str]) -> int:
    """The exit code of a command, run here."""
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
