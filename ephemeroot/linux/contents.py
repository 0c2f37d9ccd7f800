"""Copying the content of a file: by shared extents where the filesystem supports it, else without
its holes.

Preallocated extents stay preallocated if there is enough free space.
"""

from __future__ import annotations

import errno
import fcntl
import os

from ephemeroot.linux import extents, preallocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from ephemeroot.linux.bounds import Meter

    class Counter(Protocol):
        """The part of ``copying.Copier`` that is used here; ``shared`` is in bytes."""

        meter: Meter
        shared: int

        def report(self, path: str) -> None: ...


FICLONE = 0x40049409

# EAGAIN: ZFS cannot share blocks before they are written to disk.
_NO_SHARING = (
    errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY, errno.EAGAIN,
)  # fmt: skip

_AT_ONCE = 1 << 24


def copy(old: int, new: int, copier: Counter, path: str) -> None:
    """Fill the open, empty file *new* with the content of the open file *old*.

    *path* names the file in errors and in the progress. Raises ``OSError``, and ``OutOfBounds``
    before a copy that would exceed the bounds.
    """
    status = os.fstat(old)
    if status.st_size:
        _copy_data(old, new, status.st_size, copier, path)
    if status.st_blocks:
        preallocation.copy(old, new, status, copier.meter)


def _copy_data(old: int, new: int, size: int, copier: Counter, path: str) -> None:
    try:
        fcntl.ioctl(new, FICLONE, old)
        copier.shared += size
        copier.report(path)
        return
    except OSError as error:
        if error.errno not in _NO_SHARING:
            raise
    os.ftruncate(new, size)  # fails early with EFBIG, and makes the last hole
    position = copied = 0
    while position < size:
        copier.meter.check_time(path)
        start, end = extents.next_data(old, position, size)
        copier.meter.require_copy(end - start, copied, path)
        _copy_stretch(old, new, start, end, copier, path)
        copied += end - start
        position = end
    if (left := os.fstat(old).st_size) < size:
        os.ftruncate(new, left)


def _copy_stretch(old: int, new: int, start: int, end: int, copier: Counter, path: str) -> None:
    os.lseek(new, start, os.SEEK_SET)
    while start < end:
        copier.meter.check_time(path)
        sent = os.sendfile(new, old, start, min(end - start, _AT_ONCE))
        if sent == 0:
            return  # truncated meanwhile
        start += sent
        copier.meter.copied += sent
        copier.report(path)
