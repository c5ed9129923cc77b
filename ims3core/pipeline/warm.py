"""A process that has loaded everything, of which every command of ours is a copy: a start-up is paid once, not a stage.

``ims3 repro`` starts one and names its socket in the environment. Under ``dvc repro`` and ``dvc exp run`` the first
command leaves a copy of itself behind, whose socket is named after the DVC process. ``python -m ims3core`` asks it:
a command runs in a process of its own with the asker's folder, environment, terminal and exit code, and ends where the
asker or the server is killed. The server computes nothing itself, so that no library has begun threads, runs commands
of the process that it serves for nobody else, and ends with it.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import importlib
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
from ims3core.pipeline.served import LINUX, Dvc

SERVE = "--serve-warm"  # the argument with which ``python -m ims3core`` becomes the server
Main = Callable[[list[str]], object]
MODULES = ("ims3core.pipeline.harness", "torch", "stages.students", "stages.select", "stages.coverage")
VAE = "diffusers.models.autoencoders.autoencoder_kl"  # takes as long to load as torch
BEFORE_CANDIDATES = ("prepare", "generator", "latents", "finetune", "guides", "candidates")
BEGUN = dict(os.environ)  # before more is loaded, which sets variables
GPUS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd", "dri/render*")  # files of /dev
PATIENCE = 10.0  # seconds that an asker may take to say what it wants
PR_SET_PDEATHSIG = 1
UNWRITTEN = 120  # Python's exit code where its last output cannot be written
GONE = "ims3: killed; what is finished is kept, the same command goes on from there"


def ask(arguments: list[str], dvc: Dvc | None = None) -> int | None:
    """The exit code of the command, run by the server; None where there is none, and nothing was begun.

    Args:
        dvc: whose server is asked; None: the one that the environment names, if any.
    """
    address = dvc.address if dvc else os.environ.get(SOCKET)
    if address is None or {"WORLD_SIZE", LAUNCHED} & os.environ.keys():
        return None
    with socket.socket(socket.AF_UNIX) as server:
        # Ctrl-C reaches the command itself, whose end is waited for.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            server.connect(address)
            if _peer(server)[1] != os.getuid() or not server.recv(1):  # it has other code than this process would load
                raise ConnectionError
            request = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
            handles = array.array("i", [0, 1, 2])
            server.sendmsg([len(request).to_bytes(4)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
            server.sendall(request)
            if not server.recv(1):
                raise ConnectionError
        except OSError:
            signal.signal(signal.SIGINT, before)
            return None
        answer = server.recv(1)
    if not answer:
        print(GONE, file=sys.stderr)
    return answer[0] if answer else 1


def load(command: str, devices: Path = Path("/dev")) -> bool:
    """Loads what commands from this one on need; whether copies of this process can serve them.

    Where loading fails the stage that needs it says so. diffusers asks for a GPU while it is loaded; copies of a
    process that did so cannot use one.
    """
    names = modules(command, devices)
    try:
        for name in names:
            importlib.import_module(name)
    except Exception:
        return False
    return VAE not in names or not _gpus(devices)


def modules(command: str, devices: Path) -> tuple[str, ...]:
    """What a server loads whose first command is this one."""
    return (*MODULES, VAE) if command in BEFORE_CANDIDATES and not _gpus(devices) else MODULES


def _gpus(devices: Path) -> bool:
    return any(next(devices.glob(name), None) for name in GPUS)


def leave_behind(dvc: Dvc, main: Main, is_current: Callable[[], bool]) -> None:
    """A copy of this process goes on as the server of the next commands of ``dvc``."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.fork():
            return
    except OSError:  # no room for another process
        return
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for its commands, not for it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):  # whoever reads what DVC prints shall see its end
            os.dup2(nowhere, handle)
        serve(dvc.address, main, is_current, dvc.has_ended, dvc.runs, wakes=(dvc.handle,))
    finally:
        os._exit(0)


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Number and user of the process at the other end: names without a file are anybody's.

    Elsewhere than on Linux a folder of this user's alone holds the socket.
    """
    if not LINUX:
        return -1, os.getuid()
    process, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user


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


def serve(
    address: str, main: Main, is_current: Callable[[], bool], has_ended: Callable[[], bool],
    may_ask: Callable[[int], bool] = lambda process: True, wakes: tuple[int, ...] = (),
) -> None:  # fmt: skip
    """Runs commands by ``main`` until what it serves has ended, of which ``wakes`` tell at once.

    Where the code that this process has loaded is not current any more it ends, and commands run by themselves.

    Args:
        may_ask: whether a process of this user is served.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while not has_ended():
            if server.fileno() not in select.select([server.fileno(), *wakes], [], [], 1.0)[0]:
                continue
            asker, _ = server.accept()
            with asker:
                process, user = _peer(asker)
                if user != os.getuid() or not may_ask(process):
                    continue
                if not is_current():
                    return
                with contextlib.suppress(OSError):  # it is killed at any time
                    if (request := _request(asker)) is not None:
                        _answer(asker, server, main, *request)


def _request(asker: socket.socket) -> tuple[list[str], str, dict[str, str], array.array[int]] | None:
    """Words, folder, environment and terminal of the command; None if the asker is killed before it has said them."""
    asker.settimeout(PATIENCE)
    asker.sendall(b"+")
    size, rights, *_ = asker.recvmsg(4, socket.CMSG_SPACE(12))
    handles = array.array("i", rights[0][2]) if rights else array.array("i")
    with asker.makefile("rb") as stream:
        said = stream.read(int.from_bytes(size))
    asker.settimeout(None)
    if len(said) < max(1, int.from_bytes(size)):
        for handle in handles:
            os.close(handle)
        return None
    arguments, folder, environment = json.loads(said)
    return arguments, folder, environment, handles


def _answer(
    asker: socket.socket, server: socket.socket, main: Main, arguments: list[str], folder: str,
    environment: dict[str, str], handles: array.array[int],
) -> None:  # fmt: skip
    """Runs one command in a copy of this process, which ends early where the asker does, or this process."""
    this = os.getpid()
    ended, runs = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            if LINUX:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != this:  # it was killed before the last line
                os._exit(code)
            asker.sendall(b"+")  # before anything is begun: an asker that is not told so begins it itself
            for part in (server, asker):
                part.close()
            os.close(ended)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for number, handle in enumerate(handles):
                os.dup2(handle, number)
            code = run(main, arguments, folder, environment)
        finally:
            _exit(code)
    for handle in (*handles, runs):
        os.close(handle)
    if ended not in select.select([ended, asker.fileno()], [], [])[0]:  # all an asker says later is that it is gone
        os.kill(child, signal.SIGTERM)
    os.close(ended)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    asker.sendall(bytes([code if code >= 0 else 128 - code]))


def _exit(code: int) -> None:
    """Ends this process as Python does, without a way back to the server that it is a copy of."""
    try:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = code or UNWRITTEN
    finally:
        os._exit(code)


def _with_loaded(environment: dict[str, str]) -> dict[str, str]:
    """An asker's environment, with what loading has set here and would have set there."""
    own = {name: value for name, value in os.environ.items() if environment.get(name) == BEGUN.get(name) != value}
    return environment | own


def run(main: Main, arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """The exit code of a command, run here."""
    try:
        os.chdir(folder)
        environment = _with_loaded(environment)
        os.environ.clear()
        os.environ.update(environment)
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
