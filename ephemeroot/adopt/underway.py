"""Records of interrupted adoptions: the root may have a newer version than the store.

The next run makes such a copy equal to the root again. That is right only for the same copy and
the same root: after a boot, the new root has the version of the base, and only the store has the
data. So a record names the path, the root and the copy.
"""

from __future__ import annotations

import os
from binascii import crc32
from pathlib import Path

from ephemeroot.hooks.records import STATE
from ephemeroot.plan import applied

FOLDER = "adopting"
"""The folder among the records of a store for temporary copies and the records of adoptions."""


def name(source: str) -> str:
    """The name of the temporary copy of *source* in ``FOLDER``."""
    return f"{crc32(os.fsencode(source)):08x}"


def write(folder: int, source: str, root: Path, copy: os.stat_result) -> None:
    """Record in the open ``FOLDER`` that *copy* becomes *source* in the store."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_record(source), flags, 0o600, dir_fd=folder)
    try:
        os.write(fd, _content(source, root, copy))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.fsync(folder)


def is_recorded(store: Path, source: str, root: Path) -> bool:
    """Whether *source* in *store* is recorded as a copy from this *root*."""
    try:
        recorded = (store / STATE / FOLDER / _record(source)).read_bytes()
        return recorded == _content(source, root, (store / source).lstat())
    except OSError:
        return False


def forget(store: Path, source: str) -> None:
    """Remove the record: the store is complete, or this is another root."""
    (store / STATE / FOLDER / _record(source)).unlink(missing_ok=True)


def _record(source: str) -> str:
    return f"{name(source)}.path"


def _content(source: str, root: Path, copy: os.stat_result) -> bytes:
    return b"\0".join((os.fsencode(source), _root_id(root), str(copy.st_ino).encode()))


def _root_id(root: Path) -> bytes:
    """An id that differs for each new root, and stays the same for a kept root."""
    plan = applied.booted() if root == Path("/") else None
    wipe = plan.root_wipe() if plan is not None else None
    if plan is not None and (wipe is None or not wipe.load().SUBVOLUMES_OF):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    # f_fsid contains the number of the subvolume (btrfs_statfs in the kernel's fs/btrfs/super.c),
    # and btrfs never reuses such a number.
    return f"{os.statvfs(root).f_fsid:016x}".encode()
