"""Preallocated, unwritten space of a file: fallocate(2)."""

from __future__ import annotations

import ctypes
import os

from ephemeroot.linux import extents, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.linux.bounds import Meter

_KEEP_SIZE = 1
_ROUNDED = 1 << 16  # the largest block that a filesystem fills for the last byte of a file

# On 32-bit systems the plain name takes an offset of 32 bits.
_fallocate = getattr(kernel.libc, "fallocate64", None) or kernel.libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def copy(old: int, new: int, status: os.stat_result, meter: Meter) -> None:
    """Preallocate in the open *new* the ranges that are preallocated in the open *old*, which has
    that *status*.

    It is not content: ranges that the filesystem does not support, for which it has no space (at
    least half of it stays free), or that exceed the bounds are left out.
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
        return  # the filesystem does not report it


def _may_have(old: int, status: os.stat_result) -> bool:
    """Whether it may have preallocated ranges, by its status: reading the extents is slower."""
    size = status.st_size
    if status.st_blocks * 512 > size + _ROUNDED or size == 0:
        return True
    try:
        return os.lseek(old, 0, os.SEEK_HOLE) < size
    except OSError:
        return False
