"""One program at a time changes what the next boot does: the applied plan, the stores it names,
the images, and the boot loader's files, which a failed ``base run`` puts back.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.errors import Locked

LOCK = "/run/ephemeroot.lock"
"""Of the running system. In /run: a command of ``base run`` sees the same one."""


@contextmanager
def hold(
    root: Path, verb: str, *, wait: Callable[[str], None] | None = None, dry_run: bool = False
) -> Iterator[None]:
    """Hold the lock of the machine below *root* for *verb*; a *dry_run* needs none.

    Where another run has it, raises ``Locked`` (exit code 3), which names that run; with *wait*
    says so to it and waits for the end of that run. The kernel releases the lock of a process that
    ends, however it ends.
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
    """The open lock. Another root, an image that is being built for instance, is locked itself:
    nothing is left in it.
    """
    if not os.path.samestat(os.stat(root), os.stat("/")):
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(LOCK, flags, 0o600)


def _holder(fd: int) -> str:
    """What the run that has the lock says of itself."""
    if os.path.isdir(fd):
        return ""
    text = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
    return f": {text}" if text else ""
