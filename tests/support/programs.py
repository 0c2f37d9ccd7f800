"""The project's programs as tests start them: forks of one process that has imported them all.

`run` replaces ``subprocess.run`` for the installed program, in a tenth of the time: each run is a
process with its own environment, descriptors, working directory and, on request, namespaces. Tests
of the start itself (options of the interpreter, imported modules) use `subprocess`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).parent / "ephemeroot"
SERVER = Path(__file__).with_name("program_server.py")

MS_BIND, MS_REC = 4096, 16384
"""Flags of mount(2), for steps."""

HANGS = 300
"""Seconds after which a process is considered to hang."""

Step = Sequence[str | int]


class _Server:
    """The process, in the mount namespace of this one."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.socket = ours
        # It ends with the socket, which ends with this process.
        self.process = subprocess.Popen(
            [sys.executable, "-P", SERVER, str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()

    def ask(self, request: dict[str, Any], fds: list[int]) -> int:
        """Send a request; return the number that is the answer."""
        socket.send_fds(self.socket, [json.dumps(request).encode()], fds)
        if not select.select([self.socket], [], [], HANGS)[0]:
            self.process.kill()  # the next request goes to another server
            del _servers[os.getpid()]
            raise AssertionError(f"{request['argv']} is still running after {HANGS} s")
        answer = self.socket.recv(64)
        if not answer:
            raise RuntimeError(f"the server of programs ended: {self.process.wait()}")
        return int(answer)

    def close(self) -> None:
        """End it."""
        self.socket.close()
        self.process.wait()


_servers: dict[int, _Server] = {}
"""By the PID of the process that started it: a forked process starts its own server."""


def _server() -> _Server:
    pid = os.getpid()
    if pid not in _servers:
        _servers[pid] = _Server()
    return _servers[pid]


def close() -> None:
    """End the process that this one has started, if any."""
    if server := _servers.pop(os.getpid(), None):
        server.close()


def run(
    *words: str | os.PathLike[str],
    program: str = "ephemeroot",
    name: str = str(PROGRAM),
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] = ".",
    steps: Sequence[Step] = (),
    input: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``ephemeroot WORDS``, a ``stage`` of the boot, or ``exec`` the program *name*, and wait;
    return its code and its output.

    *name* is its argv[0]. *steps* are those of `program_server`.
    """
    given, out, err = (os.memfd_create(name) for name in ("in", "out", "err"))
    opened = [given, out, err]
    try:
        os.pwrite(given, input.encode(), 0)
        opened.append(os.open(cwd, os.O_PATH | os.O_DIRECTORY))
        argv = [name, *(os.fspath(word) for word in words)]
        request = {
            "program": program, "argv": argv, "env": dict(os.environ if env is None else env),
            "steps": [list(step) for step in steps],
        }  # fmt: skip
        code = os.waitstatus_to_exitcode(_server().ask(request, opened))
        return subprocess.CompletedProcess(argv, code, _content(out), _content(err))
    finally:
        for fd in opened:
            os.close(fd)


class Machine:
    """A `machine_init` with that layout, which ends when its `stdin` is closed."""

    def __init__(self, layout: Mapping[str, Any]) -> None:
        given, out, err = os.pipe(), os.pipe(), os.memfd_create("err")
        theirs = [given[0], out[1], err, os.open("/", os.O_PATH | os.O_DIRECTORY)]
        self.stdin, self.stdout = os.fdopen(given[1], "w"), os.fdopen(out[0])
        self._stderr = os.fdopen(os.dup(err))
        request = {
            "program": "machine", "argv": ["machine", json.dumps(layout)],
            "env": dict(os.environ), "steps": [],
        }  # fmt: skip
        self.pid = _server().ask(request, theirs)
        for fd in theirs:
            os.close(fd)

    def communicate(self) -> str:
        """Wait until all its processes have ended; return their standard error."""
        self.stdin.close()
        if not select.select([self.stdout], [], [], HANGS)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"the machine has not ended after {HANGS} s")
        self.stdout.read()
        self.stdout.close()
        self._stderr.seek(0)
        with self._stderr:
            return self._stderr.read()


def _content(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="surrogateescape")
