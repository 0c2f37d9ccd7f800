"""Copying the attributes of a directory: owner, mode, ACL, label, flags."""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import inode_flags
from ephemeroot.wipers import marks

# Flags that the administrator may set for a directory's content: c, C, m (chattr(1)).
_KEPT_FLAGS = 0x00000004 | 0x00800000 | 0x00000400

LABEL = "security.selinux"
_PROPERTIES = "btrfs."  # btrfs.compression, see btrfs-property(8)


def copy(source: int, target: int) -> None:
    """Give the open directory *target* the owner, mode, ACLs, label, other extended
    attributes, flags and times of *source*. Our own marks are not copied.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    copy_flags(source, target)
    for name in os.listxattr(source):
        if not name.startswith(marks.PREFIX):
            _copy_attribute(source, target, name)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_label(source: int, target: int) -> None:
    """Give *target* the SELinux label of *source*, if that has one."""
    if LABEL in os.listxattr(source):
        _copy_attribute(source, target, LABEL)


def carry_properties(source: int, target: int) -> None:
    """Give *target* the btrfs properties (compression) that *source* has and it lacks."""
    present = os.listxattr(target)
    for name in os.listxattr(source):
        if name.startswith(_PROPERTIES) and name not in present:
            _copy_attribute(source, target, name)


def _copy_attribute(source: int, target: int, name: str) -> None:
    try:
        os.setxattr(target, name, os.getxattr(source, name))
    except OSError as error:
        # ENODATA: a label that the security module makes up and the disk does not have.
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise


def flags(fd: int) -> int:
    """The inode flags of *fd* that ``copy_flags`` copies."""
    return (inode_flags.flags(fd) or 0) & _KEPT_FLAGS


def copy_flags(source: int, target: int) -> None:
    """Give *target* the flags c, C and m (chattr(1)) that *source* has."""
    wanted = flags(source)
    if wanted:
        inode_flags.set_flags(target, wanted)
