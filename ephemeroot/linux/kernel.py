"""System calls that Python has no wrapper for, through libc's ``syscall``.

``os`` opens no ``openat2``, moves no mounts and exchanges no names. The numbers of the
calls added since Linux 5.1 are the same on every architecture
(include/uapi/asm-generic/unistd.h); ``renameat2`` is older and goes through libc.
"""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/asm-generic/unistd.h
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

_syscall = libc.syscall
_syscall.restype = ctypes.c_long

libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def raise_errno(name: str) -> None:
    """Raise the ``OSError`` of the call that has just failed, naming *name*."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), name)


def syscall(number: int, *arguments: object, name: str = "") -> int:
    """Call the kernel and return its answer; raise ``OSError`` naming *name*.

    Integers are passed as C longs: a plain Python ``int`` would be cut to 32 bits.
    """
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _syscall(ctypes.c_long(number), *converted)
    if result == -1:
        raise_errno(name)
    return int(result)


def sync_filesystem(fd: int, name: str = "syncfs") -> None:
    """Make everything on the filesystem of the open *fd* survive a power cut; raise ``OSError``
    naming *name*.
    """
    if libc.syncfs(fd) != 0:
        raise_errno(name)
