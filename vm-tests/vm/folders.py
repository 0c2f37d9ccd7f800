"""Temporary folders, removed without any mount in them.

An interrupted run can leave a disk mounted in one. The program's own removal stops there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ephemeroot.linux import removal


def remove(folder: Path) -> None:
    """Remove *folder* and its content; a missing one is accepted.

    Raises OSError: EXDEV or EBUSY if it contains a mount, which is left unchanged.
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
    """A new empty folder for the duration of a `with`.

    A failed removal is an error only if the `with` itself succeeded: otherwise the first error is
    the important one.
    """
    folder = make(prefix, parent)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            remove(folder)
        raise
    remove(folder)
