"""Fixtures of the tests that mount: a mount namespace of their own, boots to run stages in."""

from __future__ import annotations

import ctypes
import os

import pytest

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 16384 | 1 << 18

_entered: list[int] = []


@pytest.fixture
def private_mounts() -> None:
    """Move this process into a mount namespace of its own, once: nothing leaks to the host."""
    if os.getpid() in _entered:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _entered.append(os.getpid())
