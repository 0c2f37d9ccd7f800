"""Runs the project's programs, each as a fork of this process, which has imported all of them.

Starting an interpreter and importing a verb takes longer than most verbs run. `programs` starts
this once for each test process, and sends it requests: JSON with ``program`` (``ephemeroot``,
``stage`` for `ephemeroot.hooks`, ``machine`` for `machine_init`, ``exec`` for any other), ``argv``,
``env`` and ``steps``, and the descriptors of standard input, output, error and of the working
directory. The answer is the wait status; for a ``machine``, which continues to run, it is the PID.

The fork executes the steps before it becomes the program: ``["namespace"]`` gives it private
mounts, ``["mount", source, target, type, flags, data]``, ``["mkdir", path]``, ``["chroot", path]``,
``["enter", pid]`` enters that process's mount and PID namespaces, ``["user", id, directory]``
becomes that user, without any privilege.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ephemeroot

sys.path.insert(0, os.path.dirname(__file__))
import machine_init
from ephemeroot import postponed

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_REC, MS_PRIVATE = 16384, 1 << 18
PR_SET_DUMPABLE = 4
LARGEST = 1 << 20
"""Maximum size of a request in bytes."""


def import_all() -> None:
    """Import every module of the program for which this machine has the libraries."""
    for found in pkgutil.walk_packages(ephemeroot.__path__, "ephemeroot.", onerror=lambda _: None):
        if found.name.rpartition(".")[2] != "__main__":
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("ephemeroot"):
                    raise
    importlib.import_module("ephemeroot.hooks.__main__")
    for module in list(sys.modules.values()):
        if isinstance(module, postponed.Postponed):
            with suppress(ModuleNotFoundError):
                getattr(module, "not in any module", None)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _own_mounts() -> None:
    _check(LIBC.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", "", MS_REC | MS_PRIVATE, "")


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    words = (source.encode(), target.encode(), fstype.encode() or None)
    _check(LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None), target)


def _mkdir(path: str) -> None:
    os.makedirs(path, exist_ok=True)


def _chroot(path: str) -> None:
    os.chroot(path)
    os.chdir("/")


def _enter(pid: int) -> None:
    """Become a child in those namespaces: the caller of setns(2) stays in its PID namespace
    (pid_namespaces(7)).
    """
    kinds = {"pid": CLONE_NEWPID, "mnt": CLONE_NEWNS}
    opened = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds}
    for kind, fd in opened.items():
        _check(LIBC.setns(fd, kinds[kind]), f"setns {kind}")
        os.close(fd)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status))


def _user(number: int, directory: str) -> None:
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    # The user can inspect a program that the user has started (proc(5)).
    _check(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    os.chdir(directory)


STEPS: dict[str, Callable[..., None]] = {
    "namespace": _own_mounts, "mount": _mount, "mkdir": _mkdir, "chroot": _chroot,
    "enter": _enter, "user": _user,
}  # fmt: skip


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Become the program of *request*, until it ends."""
    code = 1
    try:
        for number, fd in enumerate(fds[:3]):
            os.dup2(fd, number)
        os.fchdir(fds[3])
        for fd in fds:
            os.close(fd)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        # As the interpreter has them when it starts.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for name, *arguments in request["steps"]:
            STEPS[name](*arguments)
        os.environ.clear()
        os.environ.update(request["env"])
        time.tzset()
        _open_streams()
        if request["program"] == "exec":
            _exec(request["argv"])
        code = _call(request["program"], request["argv"])
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
    finally:
        code = _close_streams(code)
        os._exit(code & 0xFF)


def _open_streams() -> None:
    before = sys.stdout
    sys.stdin = os.fdopen(0, encoding=before.encoding, errors="surrogateescape")
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, before.encoding, before.errors)
    sys.stderr = os.fdopen(2, "w", 1, before.encoding, "backslashreplace")
    # As in the interpreter, these keep the descriptors open even if those are replaced.
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _exec(argv: list[str]) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def _call(program: str, argv: list[str]) -> int:
    sys.argv = argv
    atexit._clear()
    try:
        if program == "stage":
            from ephemeroot.hooks.__main__ import main as stage

            code: object = stage(argv[1:])
        elif program == "machine":
            machine_init.main()
            code = 0
        else:
            from ephemeroot.cli import main

            code = main()
    except SystemExit as ended:
        code = ended.code
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


def _close_streams(code: int) -> int:
    """Flush; return the exit code, which is the interpreter's if flushing fails."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except OSError:
        return 120
    return code


def serve(requests: socket.socket) -> None:
    """Answer requests until there are no more."""
    machines: set[int] = set()
    while True:
        message, fds, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            requests.close()
            become(json.loads(message), fds)
        for fd in fds:
            os.close(fd)
        if json.loads(message)["program"] == "machine":
            machines.add(pid)
            requests.send(str(pid).encode())
        else:
            _, status = os.waitpid(pid, 0)
            requests.send(str(status).encode())
        machines = {one for one in machines if os.waitpid(one, os.WNOHANG)[0] == 0}


def main() -> None:
    """The only argument is the descriptor of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test process
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        import_all()
        gc.collect()
        gc.freeze()  # otherwise each fork would write to all of it, and so copy it
        serve(requests)


if __name__ == "__main__":
    assert isinstance(sys.stdout, io.TextIOWrapper)
    main()
