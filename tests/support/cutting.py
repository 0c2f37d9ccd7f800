"""A process that dies right before one of its changes to a disk."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ephemeroot.linux import mountinfo

CUT, DONE = 99, 0
_CLONE_NEWNS = 0x00020000
_UMOUNT_NOFOLLOW = 8


def run_and_cut(
    work: Callable[[], object],
    changes: frozenset[str],
    at: int,
    last_words: Callable[[], None] = lambda: None,
    *,
    own_mounts: Path | None = None,
) -> bool:
    """Do the *work* in a child that dies before its change number *at*; return whether it came that
    far.

    *changes* names the built-in functions that are changes; ``paths.rename`` always is one. With
    *own_mounts* the child has a private mount namespace, in which nothing is mounted below that
    folder when this returns: its filesystems and their devices are free.
    """
    if own_mounts is not None:
        return _in_namespace(lambda: run_and_cut(work, changes, at, last_words), own_mounts)
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
            sys.setprofile(watch)
            work()
            status = DONE
        finally:
            sys.setprofile(None)
            os._exit(status)
    return _is_cut(child)


def _is_cut(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (CUT, DONE)
    return code == CUT


def _in_namespace(run: Callable[[], bool], folder: Path) -> bool:
    """Execute *run* in a process with a private mount namespace. That process outlives the killed
    child and unmounts everything below *folder*: umount(2) returns when the filesystem is
    unmounted, while the kernel destroys an unused namespace at some later time.
    """
    keeper = os.fork()
    if keeper == 0:
        status = 1
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            status = CUT if run() else DONE
            for mount in sorted(mountinfo.mounts(), key=lambda one: len(one.point))[::-1]:
                if not mount.point.startswith(f"{folder}/"):
                    continue
                if libc.umount2(os.fsencode(mount.point), _UMOUNT_NOFOLLOW) != 0:
                    status = 1
                    raise OSError(ctypes.get_errno(), "umount", mount.point)
        finally:
            os._exit(status)
    return _is_cut(keeper)
