"""Owner, mode, ACLs, extended attributes and times, copied by descriptor."""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux.mounts import fd_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS = "system.posix_acl_access"
# struct posix_acl_xattr_entry and its tags, linux/posix_acl_xattr.h and linux/posix_acl.h.
_ENTRY = 8
_GROUP_OBJ, _MASK = 0x04, 0x10

ACLS = (ACCESS, "system.posix_acl_default")
# Attributes that describe the file to its own filesystem, and that another cannot hold.
_FILESYSTEMS_OWN = ("btrfs.", "system.nfs4_")
_ROOM = 1 << 20


def own_mode(where: int | str) -> int:
    """The permission bits of a file, by descriptor or path, without those that only its ACL grants
    to named users and groups: with an ACL, the group bits of ``st_mode`` are its mask (acl(5)).

    Raises ``OSError``.
    """
    mode = stat.S_IMODE(os.stat(where).st_mode)
    acl = access_list(where)
    granted = {}
    for start in range(4, len(acl), _ENTRY):
        tag, bits = (int.from_bytes(acl[at : at + 2], "little") for at in (start, start + 2))
        granted[tag] = bits & 0o7
    if _GROUP_OBJ in granted and _MASK in granted:
        mode = mode & ~0o070 | (granted[_GROUP_OBJ] & granted[_MASK]) << 3
    return mode


def access_list(where: int | str) -> bytes:
    """The ACL of a file in the kernel's format; empty if it has none. Raises ``OSError``."""
    try:
        return os.getxattr(where, ACCESS)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def copy(old: int, new: int, failed: Callable[[str, OSError], None] | None = None) -> None:
    """Copy owner, mode, extended attributes and times from the open *old* to the open *new*.

    Both may be opened with ``O_PATH``, and so be symlinks, devices and FIFOs. An ACL that *new* has
    inherited from its directory is removed. Raises ``OSError``: E2BIG for an extended attribute
    that the filesystem cannot hold. With *failed*, an attribute that cannot be set is reported to
    it, by name, and left out.
    """
    status = os.fstat(old)
    # Through /proc: fchown(2) and similar calls refuse O_PATH, the only way to open a symlink.
    where = fd_path(new)
    os.chown(where, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(where, stat.S_IMODE(status.st_mode))  # after chown, which clears setuid
    _copy_extended(fd_path(old), new, failed)
    os.utime(where, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_extended(old: str, new: int, failed: Callable[[str, OSError], None] | None) -> None:
    where = fd_path(new)
    names = os.listxattr(old)
    for name in os.listxattr(where):
        if name in ACLS and name not in names:
            os.removexattr(where, name)
    for name in names:
        try:
            _copy_one(old, where, new, name)
        except OSError as error:
            if failed is None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            failed(name, error)


def _copy_one(old: str, where: str, new: int, name: str) -> None:
    value = b""
    try:
        value = os.getxattr(old, name)
        os.setxattr(where, name, value)
    except OSError as error:
        # The copy of the data must succeed on a filesystem without labels or with properties of its
        # own (btrfs.compression). ENODATA: removed meanwhile. Attributes that a user has set are
        # not lost silently if the filesystem supports such attributes.
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return
        if error.errno == errno.EINVAL and not name.startswith("user."):
            return
        raise _of_attribute(error, new, name, value) from None


def _of_attribute(error: OSError, fd: int, name: str, value: bytes) -> OSError:
    """E2BIG instead of *error* if that is about the size of the attribute, which a user chooses."""
    if error.errno in (errno.E2BIG, errno.ERANGE) or (
        error.errno == errno.ENOSPC and _has_room(fd)
    ):
        said = f"the extended attribute {name} does not fit ({len(value)} bytes)"
        return OSError(errno.E2BIG, said)
    return error


def _has_room(fd: int) -> bool:
    """Whether the filesystem has free space, so that ENOSPC concerns the attribute (ext4 has one
    block for all attributes of a file).
    """
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize >= _ROOM and (not found.f_files or found.f_favail > 0)


def copy_access(source: int, target: int) -> None:
    """Copy owner, group, mode, ACL and SELinux label from *source* to *target*.

    Both are open (not merely ``O_PATH``) directories or files. Raises ``OSError`` as ``copy`` does.
    """
    status = os.fstat(source)
    present = os.fstat(target)
    if (status.st_uid, status.st_gid) != (present.st_uid, present.st_gid):
        os.fchown(target, status.st_uid, status.st_gid)
    if stat.S_IMODE(status.st_mode) != stat.S_IMODE(present.st_mode):
        os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in (*ACLS, "security.selinux"):
        _copy_or_remove(source, target, name)


def copy_acls(source: int, target: int) -> None:
    """Copy the ACLs of *source* to the open directory *target*, if its filesystem supports them."""
    for name in ACLS:
        try:
            _copy_or_remove(source, target, name)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def _copy_or_remove(source: int, target: int, name: str) -> None:
    wanted = None
    try:
        wanted = _value(source, name)
        if wanted == _value(target, name):
            return
        if wanted is not None:
            os.setxattr(target, name, wanted)
        elif name != "security.selinux":  # a label can be changed, but not removed
            os.removexattr(target, name)
    except OSError as error:
        raise _of_attribute(error, target, name, wanted or b"") from None


def _value(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def extended(fd: int) -> dict[str, bytes]:
    """The extended attributes of the open *fd* that a copy on another filesystem can have."""
    found = {}
    for name in os.listxattr(fd):
        if not name.startswith(_FILESYSTEMS_OWN):
            try:
                found[name] = os.getxattr(fd, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    return found
