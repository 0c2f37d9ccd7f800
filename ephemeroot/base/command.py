"""Running a command in an assembled base, and ending all that it started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import kernel

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 5.0  # seconds between asking a left-over process to end and ending it
IN_BASE = "EPHEMEROOT_BASE"
"""Set for a command in a base: what it does to packages is permanent."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_Action = Callable[[int, FrameType | None], None] | signal.Handlers


class Interrupted(EphemerootError):
    """The run was interrupted by a signal."""

    exit_code = 130


def run(root: str, words: Sequence[str], output: int | None = None) -> int:
    """Run *words* in the tree at *root*; returns its exit status, 128 + N for a signal N. What
    it prints goes to the descriptor *output* if there is one.

    What it leaves running is ended: it would keep the tree in use. Raises ``Interrupted``
    if this process is asked to end meanwhile, ``EphemerootError`` if there is no such
    program.
    """
    rest = [ctypes.c_ulong(number) for number in (1, 0, 0, 0)]
    if kernel.libc.prctl(_PR_SET_CHILD_SUBREAPER, *rest) != 0:
        kernel.raise_errno("prctl")
    try:
        with _signals():
            process = subprocess.Popen(
                words,
                env=_environment(),
                stdout=output,
                preexec_fn=_entering(root),  # noqa: PLW1509  # this program has no threads
            )
            status = process.wait()
    except FileNotFoundError:
        raise EphemerootError(f"the program {words[0]!r} is not installed in the base") from None
    finally:
        _end_descendants()
    return status if status >= 0 else 128 - status


def shell(root: str) -> list[str]:
    """The shell to work in: the administrator's own if the tree has it."""
    own = os.environ.get("SHELL", "")
    return [own if own.startswith("/") and Path(root, own.lstrip("/")).exists() else "/bin/sh"]


def _environment() -> dict[str, str]:
    # TMPDIR may name a folder that only exists outside; the prompt says where one is.
    left = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "PWD", "OLDPWD")}
    return {**left, "PATH": _PATH, "debian_chroot": "base", IN_BASE: "1"}


def _entering(root: str) -> Callable[[], None]:
    def enter() -> None:
        # If this process is killed outright, the command must not continue in a tree that the
        # next run takes back.
        kernel.libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chroot(root)
        os.chdir("/")

    return enter


@contextmanager
def _signals() -> Iterator[None]:
    """The terminal's signals are for the command; others end this run, in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"ended by {signal.Signals(number).name}")

    ours: dict[signal.Signals, _Action] = {
        signal.SIGINT: signal.SIG_IGN,
        signal.SIGQUIT: signal.SIG_IGN,
        signal.SIGTERM: interrupt,
        signal.SIGHUP: interrupt,
    }
    before = {number: signal.signal(number, action) for number, action in ours.items()}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _end_descendants() -> None:
    deadline = time.monotonic() + _PATIENCE
    number = signal.SIGTERM
    while children := _children():
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        # Those of a child that ends become ours: look again.
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found
