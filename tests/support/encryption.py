"""Encrypted directories of an ext4 (include/uapi/linux/fscrypt.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from ephemeroot.linux import ioctl


def encrypt(top: Path, place: Path) -> bytes:
    """Create the encrypted directory *place* on the filesystem mounted at *top*; return the name of
    its key, of which the filesystem has the only copy.
    """
    place.mkdir()
    key = os.urandom(64)
    argument = bytearray(struct.pack("<II32xII32x", 2, 0, len(key), 0) + key)
    _call(top, ioctl.both(0x66, 23, 80), argument)
    name = bytes(argument[8:24])
    policy = struct.pack("<BBBBB3x16s", 2, 1, 4, 3, 0, name)
    _call(place, ioctl.reading(0x66, 19, 12), bytearray(policy))
    return name


def lock(top: Path, key: bytes) -> None:
    """Remove the *key* of that name: encrypted directories then show neither names nor content."""
    argument = bytearray(struct.pack("<II16s16xI20x", 2, 0, key, 0))
    _call(top, ioctl.both(0x66, 24, 64), argument)
    assert struct.unpack_from("<I", argument, 40) == (0,), "files are in use"


def _call(path: Path, request: int, argument: bytearray) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)
