"""Folders that go away, and nothing that is mounted in them.

A run that is interrupted can leave a disk mounted in one. The program's own removal stops there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ephemeroot.linux import removal


def remove(folder: Path) -> None:
    """Remove *folder* and everything in it; one that is missing is fine.

    Raises OSError: EXDEV or EBUSY where something is mounted in it, which is left as it is.
    """
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        removal.remove(parent, folder.name)
    finally:
        os.close(parent)


def make(prefix: str, parent: Path | None = None) -> Path:
    """A new empty folder in *parent*, by default the one for temporary files."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))  # noqa: TID251 - `remove` removes it


@contextmanager
def temporary(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new empty folder for as long as a `with` lasts.

    Everything that cannot be removed afterwards is an error only where the `with` itself went well:
    the first error is the one to read.
    """
    folder = make(prefix, parent)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            remove(folder)
        raise
    remove(folder)
