"""The data extents of a file, and those that two files share."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from ephemeroot.linux import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# include/uapi/linux/fiemap.h
_FIEMAP_FLAG_SYNC = 1
_EXTENT_SHARED = 0x2000
_EXTENT_UNWRITTEN = 0x800
_EXTENT_INLINE = 0x200
_EXTENT_LAST = 0x1
# With these flags, the physical address does not identify the content: UNKNOWN, DELALLOC, ENCODED,
# DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE, DATA_TAIL, UNWRITTEN. ENCODED: for a compressed extent
# btrfs reports the sum of its address and of the offset in its uncompressed data, and two different
# extents can have the same sum (fs/btrfs/fiemap.c, extent_fiemap).
_MEANINGLESS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_AT_ONCE = 128


class _Extent(ctypes.Structure):
    _fields_ = (
        ("logical", ctypes.c_uint64),
        ("physical", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("reserved64", ctypes.c_uint64 * 2),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    )


class _Fiemap(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("mapped", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("extents", _Extent * _AT_ONCE),
    )


_FS_IOC_FIEMAP = ioctl.both(0x66, 11, 32)  # the size of struct fiemap without its extents
_BTRFS_IOC_FS_INFO = ioctl.reading(0x94, 31, 1024)


def next_data(fd: int, position: int, size: int) -> tuple[int, int]:
    """The next data extent at or after *position*; ``(size, size)`` if there is none."""
    if position >= size:
        return size, size
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        if start >= size:
            return size, size
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # the filesystem does not report holes
            return position, size
        raise


_Stretch = tuple[int, int, int, int]


class Sharing:
    """Finds the ranges of two open files that are the same blocks of one filesystem.

    If that is unknown (another filesystem, no FIEMAP), no range is shared.
    """

    __slots__ = ("_files", "_flags", "_known")

    def __init__(self, one: int, other: int) -> None:
        self._files = (one, other)
        self._known: list[list[_Stretch]] = [[], []]
        # On other filesystems, one superblock may have two devices (the real-time device of XFS),
        # where equal addresses do not prove anything for unshared blocks.
        self._flags: int | None = None
        if _filesystem(one) is not None and _filesystem(one) == _filesystem(other):
            self._flags = 0
        elif os.fstat(one).st_dev == os.fstat(other).st_dev:
            self._flags = _EXTENT_SHARED

    def end(self, start: int, end: int) -> tuple[int, bool]:
        """Whether both files share the range at *start*, and its end (at most *end*)."""
        if self._flags is None:
            return end, False
        try:
            mine, others = self._look(0, start, end), self._look(1, start, end)
        except OSError:
            self._flags = None
            return end, False
        stop = min(end, mine[0] + mine[2], others[0] + others[2])
        is_shared = (
            not (mine[3] | others[3]) & _MEANINGLESS
            and mine[3] & others[3] & self._flags == self._flags
            and mine[1] - mine[0] == others[1] - others[0]
        )
        return stop, is_shared

    def _look(self, which: int, start: int, end: int) -> _Stretch:
        """The extent at *start*; an unusable one if there is none."""
        known = self._known[which]
        while known and known[0][0] + known[0][2] <= start:
            known.pop(0)
        if not known:
            known += _extents(self._files[which], start, end)
        if not known:
            return start, 0, end - start, _MEANINGLESS
        if known[0][0] > start:
            return start, 0, known[0][0] - start, _MEANINGLESS
        return known[0]


def _extents(fd: int, start: int, end: int, how: int = _FIEMAP_FLAG_SYNC) -> list[_Stretch]:
    """The first extents between *start* and *end*: logical, physical, length and flags of each.

    Dirty pages are written first: otherwise the old block is reported for changed data.
    """
    request = _Fiemap(start, end - start, how, 0, _AT_ONCE, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
    return [(e.logical, e.physical, e.length, e.flags) for e in request.extents[: request.mapped]]


def unwritten(fd: int) -> Iterator[tuple[int, int]]:
    """Start and length of preallocated, unwritten ranges in the open file, also after its end.
    Raises ``OSError`` if the filesystem does not report them.
    """
    position, end = 0, (1 << 63) - 1
    while position < end:
        found = _extents(fd, position, end, 0)
        for logical, _, length, flags in found:
            if flags & _EXTENT_UNWRITTEN:
                yield logical, length
            position = logical + length
            if flags & _EXTENT_LAST:
                return
        if not found:
            return


def exclusive(fd: int) -> int:
    """Bytes of data in the open file that no other file shares; compressed data by their size when
    read. Raises ``OSError`` if the filesystem does not report it.
    """
    total, position, end = 0, 0, (1 << 63) - 1
    while position < end:
        found = _extents(fd, position, end, 0)
        for logical, _, length, flags in found:
            if not flags & (_EXTENT_SHARED | _EXTENT_INLINE):
                total += length
            position = logical + length
            if flags & _EXTENT_LAST:
                return total
        if not found:
            return total
    return total


def _filesystem(fd: int) -> bytes | None:
    """The identity of the btrfs of *fd*, the same in all subvolumes; else ``None``."""
    answer = bytearray(1024)
    try:
        fcntl.ioctl(fd, _BTRFS_IOC_FS_INFO, answer)
    except OSError:
        return None
    return bytes(answer[16:32])
