"""A process that dies right before one of its changes to a disk."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from types import FrameType

CUT, DONE = 99, 0
_CLONE_NEWNS = 0x00020000


def run_and_cut(
    work: Callable[[], object],
    changes: frozenset[str],
    at: int,
    last_words: Callable[[], None] = lambda: None,
    *,
    own_mounts: bool = False,
) -> bool:
    """Do the *work* in a child that dies before its change number *at*; whether it came that far.

    *changes* names the built-in functions that count as one; ``paths.rename`` always does. With
    *own_mounts* what the child mounts goes away with it.
    """
    child = os.fork()
    if child == 0:
        left = at

        def watch(frame: FrameType, event: str, argument: object) -> None:
            nonlocal left
            name = ""
            if event == "c_call":
                name = getattr(argument, "__name__", "")
            elif event == "call" and frame.f_code.co_filename.endswith("linux/paths.py"):
                name = "setxattr" if frame.f_code.co_name == "rename" else ""
            if name in changes:
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    last_words()
                    os._exit(CUT)

        status = 1
        try:
            if own_mounts and ctypes.CDLL(None).unshare(_CLONE_NEWNS) != 0:
                raise OSError("unshare")
            sys.setprofile(watch)
            work()
            status = DONE
        finally:
            sys.setprofile(None)
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (CUT, DONE)
    return code == CUT
