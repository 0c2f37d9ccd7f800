"""Flags and project numbers of inodes (chattr(1)), which a copy needs beside extended attributes.

Some of them must be set before the content (NOCOW takes effect on an empty file only, new files
inherit from their directory), and two must be set last: an immutable or append-only inode cannot be
changed or renamed (``immutable``). A flag that a filesystem does not support does not stop a copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys

from ephemeroot.linux import ioctl

# include/uapi/linux/fs.h; the kernel reads and writes an int, although the size is that of a long.
_LONG = 8 if sys.maxsize > 1 << 32 else 4
_GETFLAGS = ioctl.reading(0x66, 1, _LONG)
_SETFLAGS = ioctl.writing(0x66, 2, _LONG)
# struct fsxattr: the fourth word is the project.
_FSGETXATTR = ioctl.reading(0x58, 31, 28)
_FSSETXATTR = ioctl.writing(0x58, 32, 28)

SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME = 0x8, 0x10, 0x20, 0x40, 0x80
COMPRESS, NOCOMPRESS, NOCOW = 0x4, 0x400, 0x800000
ENCRYPTED, PROJECT_INHERIT = 0x800, 0x20000000
_JOURNAL, _NOTAIL, _DIRSYNC, _TOPDIR, _DAX, _CASEFOLD = (
    0x4000, 0x8000, 0x10000, 0x20000, 0x2000000, 0x40000000,
)  # fmt: skip

FIRST = (
    SYNC | NODUMP | NOATIME | COMPRESS | NOCOMPRESS | NOCOW | PROJECT_INHERIT
    | _JOURNAL | _NOTAIL | _DIRSYNC | _TOPDIR | _DAX | _CASEFOLD
)  # fmt: skip
"""Flags that a copy gets before its content."""

LAST = IMMUTABLE | APPEND
"""Flags that a copy gets after its content and attributes."""

_COMPARED = LAST | NODUMP
_STORAGE = COMPRESS | NOCOMPRESS | NOCOW
_COMPRESSION = "btrfs.compression"  # btrfs-property(8)
_UNKNOWN = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def flags(fd: int) -> int | None:
    """The flags of the open file or directory; ``None`` if the filesystem has no flags."""
    answer = bytearray(_LONG)
    try:
        fcntl.ioctl(fd, _GETFLAGS, answer)
    except OSError:
        return None
    return int.from_bytes(answer[:4], sys.byteorder)


def set_flags(fd: int, value: int) -> None:
    """Give the open file or directory these flags. Raises ``OSError``."""
    fcntl.ioctl(fd, _SETFLAGS, bytearray(value.to_bytes(4, sys.byteorder) + bytes(_LONG - 4)))


def project(fd: int) -> int:
    """The project number of the open file or directory; 0 without one."""
    return int.from_bytes(_extended(fd)[12:16], sys.byteorder)


def set_project(fd: int, number: int) -> None:
    """Give the open file or directory this project number. Raises ``OSError``."""
    value = _extended(fd)
    value[12:16] = number.to_bytes(4, sys.byteorder)
    fcntl.ioctl(fd, _FSSETXATTR, value)


def _extended(fd: int) -> bytearray:
    answer = bytearray(28)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, answer)
    except OSError:
        return bytearray(28)
    return answer


def begin(old: int, new: int, old_directory: int = -1, directory: int = -1) -> None:
    """Set the flags of the open *old* that must be set before the content, its compression, and its
    project on the open, empty *new*. They are in the open *directory* and *old_directory*, which
    directories do not need.

    Flags that only *new* has, by inheritance, are cleared, except for the project at the place of
    the whole copy: its quota applies to entries without a project of their own.
    """
    wanted, present = flags(old), flags(new)
    number = project(old)
    exact = number != 0
    if (present or 0) & PROJECT_INHERIT or project(new):
        exact = exact or _has_from_above(old, old_directory, PROJECT_INHERIT)
    if exact:
        try:
            set_project(new, number)
        except OSError:
            pass  # a filesystem without projects
    if wanted is None or present is None:
        return
    cleared = present & FIRST & ~wanted
    if not exact:
        cleared &= ~PROJECT_INHERIT
    if cleared & NOCOW and not _has_from_above(new, directory, NOCOW):
        cleared &= ~NOCOW  # from the mount option nodatacow
    _set_what_can_be(new, present, present & ~cleared | wanted & FIRST)
    if wanted & (COMPRESS | NOCOMPRESS):
        _copy_compression(old, new)


def _has_from_above(fd: int, directory: int, flag: int) -> bool:
    if directory >= 0:
        return bool((flags(directory) or 0) & flag)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        return False
    above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        return bool((flags(above) or 0) & flag)
    finally:
        os.close(above)


def _copy_compression(old: int, new: int) -> None:
    """Copy the compression property: otherwise a zstd file would get the default method."""
    try:
        os.setxattr(new, _COMPRESSION, os.getxattr(old, _COMPRESSION))
    except OSError:
        pass


def _set_what_can_be(fd: int, present: int, wanted: int) -> None:
    """Set *wanted*, or those of its flags that the filesystem supports."""
    if wanted == present:
        return
    try:
        set_flags(fd, wanted)
        return
    except OSError:
        pass
    for number in range(32):
        bit = 1 << number
        if (wanted ^ present) & bit:
            try:
                set_flags(fd, present ^ bit)
                present ^= bit
            except OSError:
                pass


def finish(old: int, new: int) -> None:
    """Make the complete, open *new* immutable or append-only like the open *old*.

    Raises ``OSError`` (EPERM) without the privilege for it.
    """
    wanted = flags(old)
    if wanted is not None and wanted & LAST:
        set_last(new, wanted & LAST)


def set_last(fd: int, wanted: int) -> None:
    """Add the flags *wanted*, a subset of ``LAST``. Raises ``OSError`` (EPERM) without the
    privilege for it; a filesystem that does not support them is not an error.
    """
    present = flags(fd)
    if present is None or present & wanted == wanted:
        return
    try:
        set_flags(fd, present | wanted)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return
        raise OSError(
            error.errno, f"cannot be made {_described(wanted)} (chattr(1)): {error.strerror}"
        ) from None


def clear_last(fd: int) -> None:
    """Clear the flags immutable and append-only of the open *fd*. Raises ``OSError``."""
    present = flags(fd) or 0
    if present & LAST:
        set_flags(fd, present & ~LAST)


def same(one: int, other: int) -> bool:
    """Whether the flags i, a and d of two open files are the same, if both filesystems support
    flags. The other flags concern the storage of the file.
    """
    mine, others = flags(one), flags(other)
    return mine is None or others is None or not (mine ^ others) & _COMPARED


def same_storage(one: int, other: int) -> bool:
    """Whether the flags C, c and m of two open files of one filesystem are the same."""
    mine, others = flags(one), flags(other)
    return mine is None or others is None or not (mine ^ others) & _STORAGE


def described(fd: int) -> str:
    """``immutable``, ``append-only``, both, or empty if the open *fd* is neither."""
    return _described((flags(fd) or 0) & LAST)


def _described(found: int) -> str:
    words = (("immutable", IMMUTABLE), ("append-only", APPEND))
    return " and ".join(word for word, bit in words if found & bit)
