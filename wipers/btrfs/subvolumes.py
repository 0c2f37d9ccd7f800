"""Btrfs subvolumes by open descriptors: identify, create, list, delete.

libbtrfsutil knows only paths; ``/proc/self/fd/N`` is the path of what *is* open, so no
name is looked up twice. Deleting goes by subvolume id for the same reason: the proven
subvolume is deleted, whatever its name means by then.
"""

from __future__ import annotations

import errno
import os
import sys

from ephemeroot.linux import inode_flags, ioctl, mounts, paths
from ephemeroot.linux.devices import format_uuid
from ephemeroot.linux.mounts import fd_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT_INODE = 256
"""BTRFS_FIRST_FREE_OBJECTID: the inode number of every subvolume's own directory."""

STUB_INODE = 2
"""BTRFS_EMPTY_SUBVOL_DIR_OBJECTID: what a snapshot shows where its source had a nested
subvolume. Nothing can be created in it."""

TOP_LEVEL = 5
"""BTRFS_FS_TREE_OBJECTID: the subvolume that holds all others."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# include/uapi/linux/btrfs.h: struct btrfs_ioctl_vol_args_v2, ..._get_subvol_rootref_args
_SNAP_DESTROY_V2 = ioctl.writing(0x94, 63, 4096)
_SUBVOL_SPEC_BY_ID = 1 << 4
_FS_INFO = ioctl.reading(0x94, 31, 1024)
_GET_SUBVOL_ROOTREF = ioctl.both(0x94, 61, 4096)


class Identity:
    """What btrfs knows about a subvolume. UUIDs are text; ``received`` says whether it
    came from ``btrfs receive`` and is unchanged since.
    """

    __slots__ = ("id", "received", "uuid")

    def __init__(self, id: int, uuid: str, *, received: bool) -> None:
        self.id = id
        self.uuid = uuid
        self.received = received


def library() -> Any:
    """``btrfsutil``. Imported only when a btrfs is really handled."""
    import btrfsutil  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return btrfsutil


def open_directory(parent: int, path: str) -> int:
    """Open the directory *path* below the open directory *parent*, never by a symlink."""
    return paths.open_beneath(parent, path, _DIRECTORY)


def is_subvolume(fd: int) -> bool:
    """Whether the open directory *fd*, known to be on btrfs, is a subvolume's own."""
    return os.fstat(fd).st_ino == ROOT_INODE


def identify(fd: int) -> Identity:
    """The identity of the open subvolume *fd*."""
    info = library().subvolume_info(fd_path(fd))
    return Identity(info.id, format_uuid(info.uuid), received=any(info.received_uuid))


def filesystem(fd: int) -> str:
    """The UUID of the btrfs that *fd* is on. Raises ``OSError`` (ENOTTY) elsewhere."""
    import fcntl

    answer = bytearray(1024)
    fcntl.ioctl(fd, _FS_INFO, answer)
    return format_uuid(bytes(answer[16:32]))


def is_read_only(fd: int) -> bool:
    """Whether the open subvolume *fd* is read-only."""
    return bool(library().get_subvolume_read_only(fd_path(fd)))


def set_read_only(fd: int, read_only: bool) -> None:
    """Make the open subvolume *fd* read-only, or writable."""
    library().set_subvolume_read_only(fd_path(fd), read_only)


def stays_in_place(fd: int, identity: Identity) -> bool:
    """Whether the open subvolume must never be made writable, not even for a moment."""
    return identity.received and is_read_only(fd)


def create(parent: int, name: str, groups: list[int]) -> None:
    """Create an empty subvolume; *groups* are the quota groups it will be in."""
    library().create_subvolume(f"{fd_path(parent)}/{name}", **_inheriting(groups))


def snapshot(source: int, parent: int, name: str, groups: list[int]) -> None:
    """Create a writable snapshot of the open subvolume *source*, without nested ones."""
    library().create_snapshot(fd_path(source), f"{fd_path(parent)}/{name}", **_inheriting(groups))


def _inheriting(groups: list[int]) -> dict[str, Any]:
    if not groups:
        return {}
    inherit = library().QgroupInherit()
    for group in groups:
        inherit.add_group(group)
    return {"qgroup_inherit": inherit}


def mount(fd: int, name: str) -> int:
    """A detached, read-only mount of the open subvolume *fd*; messages call it *name*."""
    return mounts.clone_read_only(fd, name=name)


def default(fd: int) -> int:
    """The id of the subvolume that is mounted when no ``subvol=`` is given."""
    return int(library().get_default_subvolume(fd_path(fd)))


def path(fd: int, id: int) -> str:
    """The path of the subvolume *id* from the top level, empty for the top level itself."""
    return "" if id == TOP_LEVEL else str(library().subvolume_path(fd_path(fd), id))


def set_default(fd: int, id: int) -> None:
    """Make the subvolume *id* the one that is mounted when no ``subvol=`` is given."""
    library().set_default_subvolume(fd_path(fd), id)


def commit(fd: int) -> None:
    """Make everything done so far to the filesystem of *fd* survive a power cut."""
    library().sync(fd_path(fd))


def cleaning(fd: int) -> set[int]:
    """The ids of deleted subvolumes whose space the kernel has not freed yet."""
    return set(library().deleted_subvolumes(fd_path(fd)))


def nested(fd: int, id: int) -> list[tuple[str, int]]:
    """Paths (relative to the open subvolume *fd*) and ids of all subvolumes in it, at any
    depth, the deepest first.
    """
    return list(library().SubvolumeIterator(fd_path(fd), top=id, post_order=True))


def inside(directory: int) -> set[int]:
    """The ids of the subvolumes directly in the open *directory*.

    Together with the inode numbers that ``readdir`` shows for subvolumes (their ids)
    this finds them without opening each: a thousand old roots are a thousand trees.
    """
    import fcntl

    inode = os.fstat(directory).st_ino
    found: set[int] = set()
    lowest = 0
    while True:
        arguments = bytearray(4096)
        arguments[:8] = lowest.to_bytes(8, sys.byteorder)
        more = False
        try:
            fcntl.ioctl(directory, _GET_SUBVOL_ROOTREF, arguments)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:  # there are more than fit
                raise
            more = True
        count = arguments[8 + 255 * 16]
        for offset in range(8, 8 + count * 16, 16):
            lowest = int.from_bytes(arguments[offset : offset + 8], sys.byteorder) + 1
            if int.from_bytes(arguments[offset + 8 : offset + 16], sys.byteorder) == inode:
                found.add(lowest - 1)
        if not more:
            return found


def delete(fd: int, id: int) -> None:
    """Delete the subvolume *id* of the filesystem of *fd*. It must not have nested ones.

    Since Linux 5.7. A mounted subvolume *can* be deleted: look at mountinfo before.
    """
    import fcntl

    arguments = bytearray(4096)
    arguments[16:24] = _SUBVOL_SPEC_BY_ID.to_bytes(8, sys.byteorder)
    arguments[56:64] = id.to_bytes(8, sys.byteorder)
    fcntl.ioctl(fd, _SNAP_DESTROY_V2, arguments)


def unlock(fd: int) -> bool:
    """Clear the immutable and the append-only attribute of the open subvolume's own directory,
    which would keep it from being renamed, marked or deleted; whether there was one.

    Not of one that was received: writable for a moment, it would no longer equal the sent one.
    """
    if not (inode_flags.flags(fd) or 0) & inode_flags.LAST:
        return False
    read_only = is_read_only(fd)
    if read_only:
        if identify(fd).received:
            return False
        set_read_only(fd, False)
    try:
        inode_flags.clear_last(fd)
    finally:
        if read_only:
            set_read_only(fd, True)
    return True


def delete_open(top: int, fd: int, id: int) -> None:
    """``delete`` of the open subvolume *fd*, immutable or not."""
    try:
        delete(top, id)
    except PermissionError:
        if not unlock(fd):
            raise
        delete(top, id)


def delete_tree(top: int, fd: int, id: int) -> None:
    """Delete the open subvolume *fd* with the *id*, nested ones first, immutable or not.

    *top* is the open top level. Everything must have been proven before: a failure
    half-way leaves the rest; deleted subvolumes do not return.
    """
    inner = nested(fd, id)
    for path in _holders(inner):
        holder = open_directory(fd, path) if path else os.dup(fd)
        try:
            # A subvolume in a read-only one cannot be removed: EROFS.
            if is_read_only(holder):
                set_read_only(holder, False)
        finally:
            os.close(holder)
    for path, inner_id in inner:
        try:
            delete(top, inner_id)
        except PermissionError:
            _unlock_nested(fd, path)
            delete(top, inner_id)
    delete_open(top, fd, id)


def _unlock_nested(fd: int, path: str) -> None:
    """Unlock the subvolume *path* in the open *fd*, and the directory that it is in."""
    for place, is_its_own in ((path, True), (os.path.dirname(path) or ".", False)):
        directory = open_directory(fd, place)
        try:
            if is_its_own:
                unlock(directory)
            else:
                inode_flags.clear_last(directory)
        finally:
            os.close(directory)


def _holders(inner: list[tuple[str, int]]) -> set[str]:
    """Which of the subvolumes at these paths, or ``""`` for the outermost, hold another."""
    known = {path for path, _ in inner}
    found = set()
    for path in known:
        parent = path.rpartition("/")[0]
        while parent and parent not in known:
            parent = parent.rpartition("/")[0]
        found.add(parent)
    return found
