"""How much data only one old root holds: what the filesystem has more of free space without it.

With quotas the kernel knows it. Without, each file's extents tell whether another file has them too
(FIEMAP_EXTENT_SHARED, include/uapi/linux/fiemap.h), which takes long for a whole root. An old root
that is a snapshot of a base that has not changed since shares with it all that was not written
later, and btrfs finds that in its tree.
"""

from __future__ import annotations

import os
import time

from ephemeroot.linux import extents, mounts, paths
from ephemeroot.wipers.btrfs import changed_since, subvolumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TimeIsUp(Exception):
    """The deadline has passed before everything was looked at."""


def measure(top: int, fd: int, deadline: float) -> int | None:
    """Bytes of data that only the open subvolume *fd* has, nested ones included; extents that two
    of its own files share, and metadata, are left out. *top* is the open top level.

    ``None`` if *deadline* (``time.monotonic()``) passes before that is known. Raises ``OSError``.
    """
    try:
        return _Measurement(fd, _written(top, fd), deadline).run()
    except TimeIsUp:
        return None


def _written(top: int, fd: int) -> Container[int] | None:
    """Inode numbers of the open subvolume *fd* outside of which all data is shared; ``None``: any
    inode can have data of its own.
    """
    info = subvolumes.library().subvolume_info(mounts.fd_path(fd))
    origin = _origin(top, info)
    if origin < 0:
        return None
    try:
        since = info.otransid + 1
        if changed_since.since(origin, since, changed_after=info.otime) != set():
            return None
        return changed_since.since(fd, since, origin=origin)
    finally:
        os.close(origin)


def _origin(top: int, info: Any) -> int:
    """The subvolume that *info*'s is a snapshot of, open; -1 if it does not exist any more."""
    if not any(info.parent_uuid):
        return -1
    library = subvolumes.library()
    for path, found in library.SubvolumeIterator(mounts.fd_path(top), top=5, info=True):
        if found.uuid == info.parent_uuid:
            return subvolumes.open_directory(top, str(path))
    return -1


class _Measurement:
    """``written`` applies to the subvolume itself: nested ones have inode numbers of their own."""

    __slots__ = ("deadline", "device", "fd", "seen", "written")

    def __init__(self, fd: int, written: Container[int] | None, deadline: float) -> None:
        self.fd = fd
        self.written = written
        self.deadline = deadline
        self.device = os.fstat(fd).st_dev
        self.seen: set[tuple[int, int]] = set()

    def run(self) -> int:
        total, todo = 0, ["."]
        while todo:
            if time.monotonic() > self.deadline:
                raise TimeIsUp
            path = todo.pop()
            try:
                directory = paths.open_beneath(self.fd, path, _DIRECTORY)
            except OSError:  # too deep for a path
                continue
            try:
                total += self._directory(directory, path, todo)
            finally:
                os.close(directory)
        return total

    def _directory(self, directory: int, path: str, todo: list[str]) -> int:
        device = os.fstat(directory).st_dev
        written = self.written if device == self.device else None
        total = 0
        with paths.entries(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    # A nested subvolume has another number here than inside.
                    number = os.stat(entry.name, dir_fd=directory, follow_symlinks=False).st_ino
                    if written is None or number in written or number == subvolumes.ROOT_INODE:
                        todo.append(f"{path}/{entry.name}")
                elif entry.is_file(follow_symlinks=False):
                    if written is None or entry.inode() in written:
                        total += self._file(directory, entry.name)
        return total

    def _file(self, directory: int, name: str) -> int:
        if time.monotonic() > self.deadline:
            raise TimeIsUp
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and identity in self.seen:
                return 0
            self.seen.add(identity)
            return extents.exclusive(fd)
        finally:
            os.close(fd)
