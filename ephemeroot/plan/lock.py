"""The lock on everything that determines the next boot: the applied plan, its stores, the images,
and the boot loader's files, which a failed ``base run`` restores.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.errors import Locked
from ephemeroot.machine import files

LOCK = "/run/ephemeroot.lock"
"""The running system's lock. It is in /run, which commands of ``base run`` share."""


@contextmanager
def hold(
    root: Path, verb: str, *, wait: Callable[[str], None] | None = None, dry_run: bool = False
) -> Iterator[None]:
    """Hold the lock of the machine at *root* for *verb*; a *dry_run* does not take it.

    If another run holds it, raises ``Locked`` (exit code 3) with the name of that run; with *wait*,
    calls it with the message and waits for the end of that run. The kernel releases the lock when
    the process ends, also after a crash.
    """
    if dry_run:
        yield
        return
    fd = _open(root)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"locked by another run{_holder(fd)}"
            if wait is None:
                raise Locked(message, f"wait until it ends, then run '{verb}' again") from None
            wait(f"{message}: waiting until it ends")
            fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.path.isdir(fd):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"'{verb}', process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def _open(root: Path) -> int:
    """Open the lock file. For another root, such as an image under construction, it is the root
    directory itself, so that no file remains in the root.
    """
    if not files.is_this_machine(root):
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(LOCK, flags, 0o600)


def _holder(fd: int) -> str:
    """The verb and process of the run that holds the lock, from the lock file."""
    if os.path.isdir(fd):
        return ""
    text = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    return f": {text}" if text else ""
