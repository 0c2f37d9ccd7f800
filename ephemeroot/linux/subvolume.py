"""Btrfs subvolumes by ioctl, for copying and removing trees: no library is needed."""

from __future__ import annotations

import fcntl
import os
import sys

from ephemeroot.linux import ioctl

# include/uapi/linux/btrfs.h: struct btrfs_ioctl_vol_args is a descriptor and a name.
_SUBVOL_CREATE = ioctl.writing(0x94, 14, 4096)
_SUBVOL_GETFLAGS = ioctl.reading(0x94, 25, 8)
_SUBVOL_SETFLAGS = ioctl.writing(0x94, 26, 8)
_READ_ONLY = 2
_ROOT_INODE = 256


def create(directory: int, name: str) -> bool:
    """Create an empty subvolume in the open *directory*; ``False`` if that is not possible, as on
    other filesystems.
    """
    encoded = os.fsencode(name)
    if len(encoded) > 255:
        return False
    try:
        fcntl.ioctl(directory, _SUBVOL_CREATE, bytearray(bytes(8) + encoded.ljust(4088, b"\0")))
    except OSError:
        return False
    return True


def is_one(fd: int) -> bool:
    """Whether the open directory is the top of a subvolume."""
    return _flags(fd) is not None


def is_read_only(fd: int) -> bool:
    """Whether the open *fd* is a subvolume, and read-only."""
    return bool((_flags(fd) or 0) & _READ_ONLY)


def set_read_only(fd: int, read_only: bool) -> None:
    """Make the open subvolume read-only, or writable. Raises ``OSError``."""
    value = (_flags(fd) or 0) & ~_READ_ONLY | (_READ_ONLY if read_only else 0)
    fcntl.ioctl(fd, _SUBVOL_SETFLAGS, bytearray(value.to_bytes(8, sys.byteorder)))


def _flags(fd: int) -> int | None:
    if os.fstat(fd).st_ino != _ROOT_INODE:
        return None
    answer = bytearray(8)
    try:
        fcntl.ioctl(fd, _SUBVOL_GETFLAGS, answer)
    except OSError:  # not btrfs
        return None
    return int.from_bytes(answer, sys.byteorder)


def flattened(paths: list[str], top: str) -> str:
    """The message about subvolumes that became directories; *paths* are relative to *top*."""
    names = ", ".join(f"{top}/{path}".rstrip("/") for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    if len(paths) == 1:
        return f"the subvolume {names} became a directory"
    return f"the subvolumes {names}{more} became directories"
