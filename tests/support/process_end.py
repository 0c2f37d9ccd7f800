"""Waiting for the end of processes that are not children of this one (pidfd_open(2))."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

HANGS = 120
"""Seconds after which a process is considered to hang."""


@contextmanager
def watching(pids: Iterable[int]) -> Iterator[Callable[[], None]]:
    """Yield a function that waits until all of *pids*, which are running now, have ended."""
    opened: list[int] = []
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended already
            opened.append(os.pidfd_open(pid))

    def wait() -> None:
        for fd in opened:
            if not select.select([fd], [], [], HANGS)[0]:
                raise AssertionError(f"a process has not ended after {HANGS} s")

    try:
        yield wait
    finally:
        for fd in opened:
            os.close(fd)
