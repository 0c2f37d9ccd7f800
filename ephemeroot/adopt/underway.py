"""Which adoptions are under way: of what is in a store, the root has perhaps a newer state.

The next run makes such a copy like the root again, whatever it has by then. That is right only
for this very copy and this very root: after a boot the root is a fresh one, with what the base
has under that name, and the store has all that is left. So a record names all three.
"""

from __future__ import annotations

import os
from binascii import crc32
from pathlib import Path

from ephemeroot.hooks.records import STATE
from ephemeroot.plan import applied

FOLDER = "adopting"
"""Below a store's own records: copies on their way, and what is under way."""


def name(source: str) -> str:
    """What a copy of *source* on its way is called there."""
    return f"{crc32(os.fsencode(source)):08x}"


def write(folder: int, source: str, root: Path, copy: os.stat_result) -> None:
    """Record in the open ``FOLDER`` that *copy* becomes what the store has as *source*."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_record(source), flags, 0o600, dir_fd=folder)
    try:
        os.write(fd, _content(source, root, copy))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.fsync(folder)


def is_recorded(store: Path, source: str, root: Path) -> bool:
    """Whether what *store* has as *source* is a copy of what this *root* has."""
    try:
        recorded = (store / STATE / FOLDER / _record(source)).read_bytes()
        return recorded == _content(source, root, (store / source).lstat())
    except OSError:
        return False


def forget(store: Path, source: str) -> None:
    """The root has nothing that the store does not have, or is another root by now."""
    (store / STATE / FOLDER / _record(source)).unlink(missing_ok=True)


def _record(source: str) -> str:
    return f"{name(source)}.path"


def _content(source: str, root: Path, copy: os.stat_result) -> bytes:
    return b"\0".join((os.fsencode(source), _life(root), str(copy.st_ino).encode()))


def _life(root: Path) -> bytes:
    """Different for each fresh root; for a root that stays the same at every boot."""
    plan = applied.booted() if root == Path("/") else None
    wipe = plan.root_wipe() if plan is not None else None
    if plan is not None and (wipe is None or not wipe.load().SUBVOLUMES_OF):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    # A subvolume's number is part of its id (btrfs_statfs in the kernel's fs/btrfs/super.c), and
    # no subvolume gets a number again.
    return f"{os.statvfs(root).f_fsid:016x}".encode()
