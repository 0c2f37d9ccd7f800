"""``/etc/machine-id`` as a file: of a root, and of a store (machine-id(5))."""

from __future__ import annotations

import os

from ephemeroot.hooks import tree
from ephemeroot.linux import immutable, paths

PATH = "/etc/machine-id"


def read(root: int, path: str) -> str | None:
    """The valid machine-id in the file, or ``None`` (absent, empty, ``uninitialized``)."""
    try:
        fd = paths.open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        text = os.read(fd, 64).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)
    valid = len(text) == 32 and all(c in "0123456789abcdef" for c in text) and int(text, 16)
    return text if valid else None


def write(root: int, path: str, identity: str) -> None:
    """Put the id into the file, atomically, readable by everyone (0444).

    That it has this name is durable only when the filesystem is synced.
    """
    parent, name = tree.open_parent(root, path)
    try:
        temporary = f".{name}.ephemeroot-new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o444, dir_fd=parent)
        try:
            os.fchmod(fd, 0o444)
            os.write(fd, identity.encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        immutable.rename(parent, temporary, parent, name)
    finally:
        os.close(parent)
