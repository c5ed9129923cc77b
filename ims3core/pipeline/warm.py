"""A process that has loaded everything, of which every command of ours is a copy: a start-up is paid once, not a stage.

The server answers ``python -m ims3core``, which asks it where the environment names its socket. A command runs in a
process of its own with the asker's folder, environment, output and exit code. The server computes nothing itself, so
that no library has begun threads, and ends with the process that started it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ims3core.pipeline.launching import LAUNCHED, SOCKET

SERVE = "--serve-warm"  # the argument with which ``python -m ims3core`` becomes the server
Main = Callable[[list[str]], object]


def ask(arguments: list[str]) -> int | None:
    """The exit code of the command, run by the server; None where there is none."""
    path = os.environ.get(SOCKET)
    if path is None or {"WORLD_SIZE", LAUNCHED} & os.environ.keys():
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            if not server.recv(1):  # it has other code than this process would load
                return None
        except OSError:
            return None
        request = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
        handles = array.array("i", [1, 2])
        server.sendmsg([len(request).to_bytes(4)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
        server.sendall(request)
        answer = server.recv(1)
    return answer[0] if answer else 1


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


def serve(path: str, main: Main, is_current: Callable[[], bool]) -> None:
    """Runs commands by ``main`` until the process that started this one is gone.

    Where the code that this process has loaded is not current any more it ends, and commands run by themselves.
    """
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(1.0)
        while os.getppid() == parent:
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
    """Runs one command in a copy of this process."""
    size, rights, *_ = asker.recvmsg(4, socket.CMSG_SPACE(8))
    handles = array.array("i", rights[0][2])
    with asker.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(size)))
    if (child := os.fork()) == 0:
        code = 1
        try:
            server.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for number, handle in zip((1, 2), handles, strict=True):
                os.dup2(handle, number)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            code = run(main, arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for handle in handles:
        os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the asker was killed
        asker.sendall(bytes([code if code >= 0 else 128 - code]))


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
