"""Space that a file has and has not written: fallocate(2)."""

from __future__ import annotations

import ctypes
import os

from ephemeroot.linux import extents, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.linux.bounds import Meter

_KEEP_SIZE = 1
_ROUNDED = 1 << 16  # the largest block that a filesystem fills for the last byte of a file

# On 32 bits the plain name takes an offset of 32 bits.
_fallocate = getattr(kernel.libc, "fallocate64", None) or kernel.libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def copy(old: int, new: int, status: os.stat_result, meter: Meter) -> None:
    """Preallocate in the open *new* what the open *old*, which has that *status*, has preallocated.

    It is not content: what the filesystem cannot do, has no room for (at least half of it stays
    free), or the bounds do not allow is left out.
    """
    if not _may_have(old, status):
        return
    try:
        for start, length in extents.unwritten(old):
            room = os.fstatvfs(new)
            if 2 * length > room.f_bavail * room.f_frsize or not meter.may_reserve(length):
                return
            if _fallocate(new, _KEEP_SIZE, start, length) != 0:
                return
    except OSError:
        return  # the filesystem does not tell


def _may_have(old: int, status: os.stat_result) -> bool:
    """Without a look at the extents, which costs more: a hole, or blocks after the end."""
    size = status.st_size
    if status.st_blocks * 512 > size + _ROUNDED or size == 0:
        return True
    try:
        return os.lseek(old, 0, os.SEEK_HOLE) < size
    except OSError:
        return False
