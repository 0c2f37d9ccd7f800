"""Lookup of labels by libselinux in the files of a policy (selabel_open(3), selabel_file(5)).

It uses ctypes: every system with SELinux has the library, but the Python module exists only for the
platform's own interpreter (EL 9 has none for Python 3.12). SELinux need not be enabled.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

# selinux/label.h and selinux/selinux.h
_FILES = 0
_PATH = 3
_LOG = 0


class _Option(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_char_p))


# Without this callback, the library writes to standard error. C keeps a pointer to it.
_ignore = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p)(lambda kind, message: 0)


def _load() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libselinux.so.1", use_errno=True)
        library.selabel_open.restype = ctypes.c_void_p
        library.selabel_open.argtypes = [ctypes.c_uint, ctypes.POINTER(_Option), ctypes.c_uint]
        library.selabel_lookup_raw.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_int,
        ]  # fmt: skip
        library.freecon.argtypes = [ctypes.c_void_p]
        library.selinux_set_callback(_LOG, _ignore)
    except (OSError, AttributeError):
        return None
    return library


class LibSelinux:
    """The policy whose file_contexts is *file*. Raises ``OSError`` if the library is missing or
    cannot use the policy.
    """

    def __init__(self, file: Path) -> None:
        library = _load()
        if library is None:
            raise OSError("libselinux.so.1 cannot be loaded")
        self._library = library
        option = _Option(_PATH, os.fsencode(file))
        self._handle = library.selabel_open(_FILES, ctypes.byref(option), 1)
        if not self._handle:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(file))

    def look_up(self, path: str, kind: int) -> str | None:
        """The label of *path*, a file of the type *kind* (``stat.S_IFDIR``); ``None`` if the policy
        has none for it. Raises ``OSError`` if the policy has a rule that the library cannot use.
        """
        found = ctypes.c_void_p()
        name = os.fsencode(path)
        ctypes.set_errno(0)
        if self._library.selabel_lookup_raw(self._handle, ctypes.byref(found), name, kind) < 0:
            number = ctypes.get_errno()
            if number == errno.ENOENT:
                return None
            raise OSError(number or errno.EINVAL, os.strerror(number or errno.EINVAL), path)
        try:
            return os.fsdecode(ctypes.string_at(found.value or 0))
        finally:
            self._library.freecon(found)
