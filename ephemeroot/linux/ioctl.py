"""Numbers of ioctl requests in the architecture's encoding (ioctl(2), asm/ioctl.h)."""

from __future__ import annotations

import os

# include/uapi/asm-generic/ioctl.h; powerpc, mips and sparc have their own layout.
_OTHER = os.uname().machine.startswith(("ppc", "mips", "sparc"))
_SIZE_BITS = 13 if _OTHER else 14
_WRITE, _READ = (4, 2) if _OTHER else (1, 2)


def _request(direction: int, kind: int, number: int, size: int) -> int:
    return direction << (16 + _SIZE_BITS) | size << 16 | kind << 8 | number


def writing(kind: int, number: int, size: int) -> int:
    """``_IOW``: user space gives *size* bytes."""
    return _request(_WRITE, kind, number, size)


def reading(kind: int, number: int, size: int) -> int:
    """``_IOR``: user space gets *size* bytes."""
    return _request(_READ, kind, number, size)


def both(kind: int, number: int, size: int) -> int:
    """``_IOWR``."""
    return _request(_WRITE | _READ, kind, number, size)
