"""Removing a tree: the only function of the program that does so.

``shutil.rmtree`` and ``tempfile.TemporaryDirectory`` are banned (pyproject.toml, TID251): they take
a path, which can lead elsewhere by the time it is used, and they remove any mount below it.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ephemeroot.linux import immutable, inode_flags, paths, subvolume
from ephemeroot.linux.walk import Walk


def remove(
    parent: int,
    name: str,
    deadline: float | None = None,
    *,
    subvolumes: bool = False,
    unlock: bool = False,
) -> bool:
    """Remove the entry *name* of the open directory *parent* and everything below it.

    Returns whether it is gone: at *deadline* (``time.monotonic()``) the rest is left. A missing
    entry is not an error. Raises ``OSError``: EXDEV at a directory that is a mount point, EBUSY
    at another file that is one, EXDEV at a btrfs subvolume unless *subvolumes*. What is mounted
    is never touched, and neither is such a subvolume. *unlock* is for copies of our own that are
    not finished: their flags i and a (chattr(1)) and the read-only ones of *subvolumes* are not
    obstacle.
    """
    if not _is_directory_after_unlink(parent, name, unlock):
        return True
    device = None if subvolumes else os.fstat(parent).st_dev
    here = Walk(parent, name)
    try:
        _enter(here, device, unlock)
        left: list[list[str]] = []
        while here.path:
            if len(left) < here.depth:
                left.append(_unlink_all_but_directories(here.fd, deadline, unlock))
            if deadline is not None and time.monotonic() >= deadline:
                return False
            if left[-1]:
                here.enter(left[-1].pop())
                _enter(here, device, unlock)
            else:
                left.pop()
                os.rmdir(here.leave(), dir_fd=here.fd)
        return True
    finally:
        here.close()


def _enter(here: Walk, device: int | None, unlock: bool) -> None:
    """What is to be done before anything in the directory is removed."""
    _require_device(here, device)
    if unlock:
        if subvolume.is_read_only(here.fd):
            subvolume.set_read_only(here.fd, False)
        inode_flags.clear_last(here.fd)


def _require_device(here: Walk, device: int | None) -> None:
    """Stop at a subvolume. Within one mount only a subvolume has another device number (on
    btrfs, where its inode is 256; on other filesystems 256 is an inode like any other).
    """
    if device is not None and os.fstat(here.fd).st_dev != device:
        raise OSError(errno.EXDEV, "is a subvolume", here.path)


def _unlink_all_but_directories(directory: int, deadline: float | None, unlock: bool) -> list[str]:
    """The directories that are left; when time is up, whatever has been seen by then."""
    found = []
    for name in paths.names(directory):
        if deadline is not None and time.monotonic() >= deadline:
            break
        if _is_directory_after_unlink(directory, name, unlock):
            found.append(name)
    return found


def _is_directory_after_unlink(directory: int, name: str, unlock: bool) -> bool:
    """Unlink *name*, unless it is a directory: then nothing has been done."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        # EPERM: by POSIX a directory, by Linux a file that is immutable (chattr(1)).
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return True
        fd = immutable.open_entry(directory, name) if unlock else -1
        if fd < 0:
            raise
        try:
            inode_flags.clear_last(fd)
        finally:
            os.close(fd)
        os.unlink(name, dir_fd=directory)
    return False
