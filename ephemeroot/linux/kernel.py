"""System calls for which Python has no wrapper, through libc's ``syscall``.

``os`` lacks ``openat2``, moving mounts and exchanging names. The numbers of calls added since Linux
5.1 are the same on every architecture (include/uapi/asm-generic/unistd.h); ``renameat2`` is older
and is called through libc.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/asm-generic/unistd.h
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442


def _prototype(*kinds: type[ctypes._SimpleCData[Any]]) -> Callable[..., int]:
    """libc's ``syscall`` for one call with arguments of these *kinds*: converting them by a
    prototype takes a third of the time of making an object for each.
    """
    function = libc["syscall"]  # another object each time, unlike libc.syscall
    function.argtypes = (ctypes.c_long, *kinds)
    function.restype = ctypes.c_long
    return function


# An integer without a prototype would be cut to 32 bits.
_INT, _TEXT, _POINTER = ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p
_CALLS = {
    SYS_OPEN_TREE: _prototype(_INT, _TEXT, _INT),
    SYS_MOVE_MOUNT: _prototype(_INT, _TEXT, _INT, _TEXT, _INT),
    SYS_FSOPEN: _prototype(_TEXT, _INT),
    SYS_FSCONFIG: _prototype(_INT, _INT, _TEXT, _TEXT, _INT),
    SYS_FSMOUNT: _prototype(_INT, _INT, _INT),
    SYS_OPENAT2: _prototype(_INT, _TEXT, _POINTER, _INT),
    SYS_MOUNT_SETATTR: _prototype(_INT, _TEXT, _INT, _POINTER, _INT),
}

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


_constants: dict[tuple[object, ...], object] = {}


def constant(structure: type[ctypes.Structure], *fields: int) -> object:
    """A pointer to a *structure* with these *fields*, for a system call that only reads it. Each is
    made once, because nearly all calls need one of a few.
    """
    key = structure, *fields
    if key not in _constants:
        _constants[key] = ctypes.byref(structure(*fields))
    return _constants[key]


def raise_errno(name: str) -> None:
    """Raise the ``OSError`` of the call that has just failed, with *name*."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), name)


def syscall(number: int, *arguments: object, name: str = "") -> int:
    """Make the system call *number*, one of those above, and return its result. Raises ``OSError``
    naming *name*.
    """
    result = _CALLS[number](number, *arguments)
    if result == -1:
        raise_errno(name)
    return result


def sync_filesystem(fd: int, name: str = "syncfs") -> None:
    """Write all data of the filesystem of the open *fd* to disk; raise ``OSError`` with *name*."""
    if libc.syncfs(fd) != 0:
        raise_errno(name)
