"""One program at a time changes what is applied, adopted or left."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.errors import Locked
from ephemeroot.image import applied


@contextmanager
def hold(root: Path) -> Iterator[None]:
    """Hold the lock on the configuration of the machine below *root*. Raises ``Locked``."""
    folder = applied.path(root).parent
    if not folder.is_dir():
        yield
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                "another ephemeroot apply, adopt or leave is running", "wait for it to end"
            ) from None
        yield
    finally:
        os.close(fd)
