"""Repairing a snapshot whose source had nested subvolumes.

A snapshot shows each of them as a dead stub: a directory with inode number 2 in which
nothing can be created. systemd-tmpfiles makes such subvolumes itself (``v``, ``q`` and
``Q`` lines: /var/lib/machines, /srv, …), so a base has them sooner or later.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import immutable
from ephemeroot.wipers import attributes
from ephemeroot.wipers.btrfs import subvolumes


def mend(source: int, fresh: int) -> int:
    """Replace each stub in the open snapshot *fresh* of the open subvolume *source* by a
    plain, empty directory like the nested subvolume it stands for: same owner, mode,
    ACLs, label and flags. Returns how many there were.
    """
    count = 0
    for path, _ in subvolumes.nested(source, subvolumes.identify(source).id):
        parent, _, name = path.rpartition("/")
        try:
            directory = subvolumes.open_directory(fresh, parent or ".")
        except OSError as error:
            # Stubs inside a stub, or inside a repaired one, are missing.
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        try:
            count += _mend_unlocked(source, path, directory, name)
        finally:
            os.close(directory)
    return count


def _mend_unlocked(source: int, path: str, directory: int, name: str) -> bool:
    """In a directory that is immutable, too: it is so again afterwards."""
    with immutable.Lifted(directory):
        return _mend_one(source, path, directory, name)


def _mend_one(source: int, path: str, directory: int, name: str) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if status.st_ino != subvolumes.STUB_INODE:
        return False
    os.rmdir(name, dir_fd=directory)
    os.mkdir(name, 0o700, dir_fd=directory)
    pattern = subvolumes.open_directory(source, path)
    try:
        mended = subvolumes.open_directory(directory, name)
        try:
            attributes.copy(pattern, mended)
        finally:
            os.close(mended)
    finally:
        os.close(pattern)
    return True
