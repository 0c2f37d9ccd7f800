"""Quota groups of a subvolume: the groups it is in, and its limits.

A fresh root is a new subvolume, and btrfs keeps quotas per subvolume: without this
each wipe would lift them. See btrfs-quota(8); the trees' keys are in
include/uapi/linux/btrfs_tree.h.
"""

from __future__ import annotations

import errno
import struct
import sys

from ephemeroot.linux import ioctl

_TREE_SEARCH = ioctl.both(0x94, 17, 4096)
_QUOTA_RESCAN = ioctl.writing(0x94, 44, 64)
_QGROUP_LIMIT = ioctl.reading(0x94, 43, 48)

_QUOTA_TREE = 8
_INFO_KEY = 242
_LIMIT_KEY = 244
_RELATION_KEY = 246
_LEVEL_SHIFT = 48
_TOP = 2**64 - 1


def parents(fd: int, id: int) -> list[int]:
    """The groups of higher levels that the group of subvolume *id* is in."""
    rows = _search(fd, (id, id), _RELATION_KEY, (0, _TOP))
    return [offset for offset, _ in rows if offset >> _LEVEL_SHIFT]


def usage(fd: int, id: int) -> tuple[int | None, int | None]:
    """Bytes that subvolume *id* refers to, and how many of them are its own alone; ``None``
    without quotas. Nested subvolumes are not included.
    """
    for _, item in _search(fd, (0, 0), _INFO_KEY, (id, id)):
        _, referenced, _, exclusive, _ = struct.unpack("<5Q", item[:40])
        return referenced, exclusive
    return None, None


def copy_limits(fd: int, source: int, target: int) -> bool:
    """Give subvolume *target* the limits of *source* (ids); False if it has none."""
    import fcntl

    for _, item in _search(fd, (0, 0), _LIMIT_KEY, (source, source)):
        limits = struct.unpack("<5Q", item[:40])
        if limits[0]:  # the flags say which of the limits are set
            fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(struct.pack("=6Q", target, *limits)))
            return True
    return False


def rescan(fd: int) -> None:
    """Have the kernel count again, in the background and across mounts.

    A snapshot that is put into a group shares data with others, so the group's numbers
    are wrong from then on; and while they are, limits are not enforced at all.
    """
    import fcntl

    try:
        fcntl.ioctl(fd, _QUOTA_RESCAN, bytearray(64))
    except OSError as error:
        # EINVAL: simple quotas (Linux 6.7) count nothing twice and know no rescan.
        if error.errno not in (errno.EINPROGRESS, errno.EINVAL):
            raise


def _search(
    fd: int, objects: tuple[int, int], kind: int, offsets: tuple[int, int]
) -> list[tuple[int, bytes]]:
    """Offset and content of the quota tree's items of one *kind*; none without quotas."""
    import fcntl

    arguments = bytearray(4096)
    struct.pack_into("=7Q4I", arguments, 0, _QUOTA_TREE, *objects, *offsets, 0, _TOP, kind, kind,
                     64, 0)  # fmt: skip
    try:
        fcntl.ioctl(fd, _TREE_SEARCH, arguments)
    except OSError as error:
        if error.errno == errno.ENOENT:  # quotas are not enabled
            return []
        raise
    count = int.from_bytes(arguments[64:68], sys.byteorder)
    rows = []
    position = 104
    for _ in range(count):
        _, found, offset, found_kind, size = struct.unpack_from("=QQQII", arguments, position)
        position += 32
        if found_kind == kind and objects[0] <= found <= objects[1]:
            rows.append((offset, bytes(arguments[position : position + size])))
        position += size
    return rows
