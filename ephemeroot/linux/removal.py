"""Removing a tree: the only function of the program that does so.

``shutil.rmtree`` and ``tempfile.TemporaryDirectory`` are banned (pyproject.toml, TID251): they take
a path, which may lead elsewhere when it is used, and they remove the content of mounts.
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

    Returns whether it is removed: after *deadline* (``time.monotonic()``) the rest stays. A missing
    entry is not an error. Raises ``OSError``: EXDEV for a directory that is a mount point, EBUSY
    for another file that is one, EXDEV for a btrfs subvolume unless *subvolumes*. Mounts, and such
    subvolumes, are never touched. *unlock* is for incomplete copies of our own: their flags i and a
    (chattr(1)), and the read-only flags of *subvolumes*, are cleared.
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
    """Prepare the directory for the removal of its entries."""
    _require_device(here, device)
    if unlock:
        if subvolume.is_read_only(here.fd):
            subvolume.set_read_only(here.fd, False)
        inode_flags.clear_last(here.fd)


def _require_device(here: Walk, device: int | None) -> None:
    """Stop at a subvolume. Within one mount, only a subvolume has another device number (on btrfs,
    with inode 256; on other filesystems 256 is an ordinary inode).
    """
    if device is not None and os.fstat(here.fd).st_dev != device:
        raise OSError(errno.EXDEV, "is a subvolume", here.path)


def _unlink_all_but_directories(directory: int, deadline: float | None, unlock: bool) -> list[str]:
    """Unlink all entries that are not directories; return the directories. Stops at *deadline*."""
    found = []
    for name in paths.names(directory):
        if deadline is not None and time.monotonic() >= deadline:
            break
        if _is_directory_after_unlink(directory, name, unlock):
            found.append(name)
    return found


def _is_directory_after_unlink(directory: int, name: str, unlock: bool) -> bool:
    """Unlink *name*, unless it is a directory; return whether it is one."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        # EPERM is a directory by POSIX, and an immutable file (chattr(1)) on Linux.
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
