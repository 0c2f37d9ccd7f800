"""ZFS by libzfs_core: channel programs, and the few calls that they have nothing for.

A channel program (zfs-program(8)) runs in one transaction group: what it reads belongs
together, and what it changes happens completely or, as long as it checks first, not at all.
"""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import shell
from ephemeroot.wipers import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEVICE = "/dev/zfs"

OUT_OF_SPACE = "out of space"
"""What zfs(8) prints of a pool that is full, and of a quota or a limit that is reached."""

# The largest that the kernel allows (include/sys/zcp.h): a program that runs out of them
# stops half-way, and thousands of snapshots are nothing unusual.
_INSTRUCTIONS = 100_000_000
_MEMORY = 100 << 20

# cffi asks ctypes.util.find_library, and that asks ldconfig, gcc and ld: none of them is in
# an initramfs. The names are those of all OpenZFS 2 (lib/libzfs_core/Makefile.am).
_SONAMES = {"nvpair": "libnvpair.so.3", "zfs_core": "libzfs_core.so.3"}


def library() -> Any:
    """The module ``libzfs_core``, with its libraries opened. Raises ``EphemerootError``."""
    import ctypes.util

    usual = ctypes.util.find_library

    def find(name: str) -> str | None:
        return _SONAMES.get(name) or usual(name)

    ctypes.util.find_library = find
    try:
        import libzfs_core
        from libzfs_core.bindings import libnvpair
        from libzfs_core.bindings import libzfs_core as core

        # Opened at the first use: now, while it can be found.
        for opened in (libnvpair.lib.nvlist_free, core.lib.lzc_exists):
            del opened
    except (ImportError, OSError) as error:
        raise EphemerootError(
            f"libzfs_core cannot be used: {error}", "install python3-pyzfs (or pyzfs from PyPI)"
        ) from error
    finally:
        ctypes.util.find_library = usual
    return libzfs_core


def exercise() -> None:
    """Load what ``library`` and its first call load: called while an image is built, with ZFS
    running or without.
    """
    found = library()
    try:
        found.lzc_exists(b"ephemeroot")
    except found.exceptions.ZFSError:
        pass


def read(pool: str, program: str, *arguments: str) -> Any:
    """What the channel *program* returns, run without changing anything.

    *arguments* are its ``argv``. Raises ``Refused`` if there is no ZFS or no such pool.
    """
    return _run(pool, program, arguments, change=False)


def change(pool: str, program: str, *arguments: str) -> Any:
    """What the channel *program* returns, run in one transaction group, which is on the disk
    when this returns. Raises ``Refused`` and ``EphemerootError``.
    """
    return _run(pool, program, arguments, change=True)


def _run(pool: str, program: str, arguments: tuple[str, ...], *, change: bool) -> Any:
    zfs = library()
    call = zfs.lzc_channel_program if change else zfs.lzc_channel_program_nosync
    words = [os.fsencode(word) for word in arguments]
    try:
        found = call(os.fsencode(pool), program.encode(), _INSTRUCTIONS, _MEMORY, words)
    except zfs.exceptions.ZFSInitializationFailed as error:
        raise Refused(
            f"there is no {DEVICE}: the kernel module zfs is not loaded", "modprobe zfs"
        ) from error
    except zfs.exceptions.ZFSError as error:
        raise _explained(error, pool, f"ZFS on {pool}") from error
    return _text(found)


def _explained(error: Any, pool: str, what: str) -> EphemerootError:
    """The error for one of libzfs_core's, in *pool*; *what* failed, if nothing more is known."""
    known = library().exceptions
    if isinstance(error, known.PoolNotFound):
        return not_imported(pool)
    if isinstance(error, known.SuspendedPool):
        return suspended(pool)
    if isinstance(error, known.ReadOnlyPool):
        name = shell.quoted(pool)
        return Refused(
            f"the pool {pool} is imported read-only: nothing in it can be changed",
            f"'zpool export {name} && zpool import -N {name}'",
        )
    return EphemerootError(f"{what}: {_said(error)}")


def not_imported(pool: str, said: str = "") -> Refused:
    """The error for a pool that this machine has not imported; *said* is what a program said."""
    name = shell.quoted(pool)
    return Refused(
        f"the pool {pool} is not imported" + (f": {said}" if said else ""),
        f"'zpool import -N {name}' imports it; 'zpool import -N -f {name}' does if another host "
        "had it last and does not use it any more; 'zpool import' lists the pools that can be "
        "imported",
    )


def suspended(pool: str) -> Refused:
    """The error for a pool that ZFS has suspended: writes to it wait, and changes fail."""
    name = shell.quoted(pool)
    return Refused(
        f"the pool {pool} is suspended: one of its devices failed",
        f"connect the device, then 'zpool clear {name}'; 'zpool status {name}' names it",
    )


def _said(error: Exception) -> str:
    details = getattr(error, "details", None) or getattr(error, "message", None)
    if details is None:
        return str(error) or type(error).__name__
    return os.fsdecode(details) if isinstance(details, bytes) else str(details)


def _text(value: Any) -> Any:
    """*value* with text for bytes, all the way down."""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_text(item) for item in value]
    return value


def listed(table: dict[str, Any] | None) -> list[Any]:
    """The items of a Lua array, which comes as a table with the keys 1, 2, …"""
    found = table or {}
    return [found[key] for key in sorted(found, key=int)]


def bookmarks(dataset: str) -> dict[str, int]:
    """The bookmarks of *dataset* by their full names, each with the transaction group in which
    the snapshot behind it was made: channel programs cannot ask for that.
    """
    zfs = library()
    try:
        found = zfs.lzc_get_bookmarks(os.fsencode(dataset), [b"createtxg"])
    except zfs.exceptions.ZFSError as error:
        raise EphemerootError(f"the bookmarks of {dataset}: {_said(error)}") from error
    return {
        f"{dataset}#{os.fsdecode(name)}": _number(facts[b"createtxg"])
        for name, facts in found.items()
    }


def _number(fact: Any) -> int:
    return int(fact[b"value"] if isinstance(fact, dict) else fact)


def rename(source: str, target: str) -> None:
    """Rename the filesystem *source*; it is done, or not, when this returns.

    Raises ``EphemerootError``, with OUT_OF_SPACE in it if a quota or a limit on the datasets above
    *target* forbids it.
    """
    zfs = library()
    try:
        zfs.lzc_rename(os.fsencode(source), os.fsencode(target))
    except (zfs.exceptions.NoSpace, zfs.exceptions.QuotaExceeded) as error:
        above = shell.quoted(target.rpartition("/")[0])
        raise EphemerootError(
            f"cannot rename {source} to {target}: {OUT_OF_SPACE}",
            f"'zfs get quota,filesystem_limit,snapshot_limit {above}' shows the limits of that "
            f"dataset, 'zfs set quota=none {above}' removes one",
        ) from error
    except zfs.exceptions.ZFSError as error:
        pool = source.partition("/")[0]
        raise _explained(error, pool, f"cannot rename {source} to {target}") from error


def lock() -> int:
    """Lock ZFS against another run of Ephemeroot's until the descriptor that is returned is closed.

    Raises ``Locked``, or ``Refused`` if there is no ZFS.
    """
    try:
        fd = os.open(DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            f"{DEVICE} cannot be opened: {error.strerror}: is the kernel module zfs loaded?",
            "modprobe zfs",
        ) from error
    try:
        history.lock(fd, "ZFS")
    except BaseException:
        os.close(fd)
        raise
    return fd
