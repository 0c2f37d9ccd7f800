"""Mounts by file descriptor: the opened object is mounted, independent of paths.

See open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2).
A detached mount exists as long as its descriptor; ``attach`` attaches it.
"""

from __future__ import annotations

import ctypes
import os

from ephemeroot.linux import kernel

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# include/uapi/linux/mount.h
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_ATIME = 0x00000070
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080

MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# Options of mount(8) that the kernel keeps per mount and not per filesystem: the flags that they
# set, and the flags that they clear. Other options are the filesystem's own.
MOUNT_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "relatime": (0, MOUNT_ATTR_ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
}


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def fd_path(fd: int) -> str:
    """The path of an open descriptor, for calls that need a path."""
    return f"/proc/self/fd/{fd}"


def clone(fd: int, *, recursive: bool = False, name: str = "") -> int:
    """Return a detached copy of the mount tree at the open directory or file *fd*."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH
    if recursive:
        flags |= AT_RECURSIVE
    return kernel.syscall(kernel.SYS_OPEN_TREE, fd, b"", flags, name=name)


def clone_read_only(fd: int, *, name: str = "") -> int:
    """Return a detached read-only copy of the one mount of *fd*."""
    mount = clone(fd, name=name)
    try:
        set_flags(mount, set_=MOUNT_ATTR_RDONLY, private=True, name=name)
    except BaseException:
        os.close(mount)
        raise
    return mount


def attach(mount_fd: int, target_fd: int, *, name: str = "") -> None:
    """Attach the detached mount *mount_fd* on the open directory or file *target_fd*."""
    kernel.syscall(
        kernel.SYS_MOVE_MOUNT,
        mount_fd,
        b"",
        target_fd,
        b"",
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        name=name,
    )


def clone_at(path: str, *, read_only: bool = False) -> int:
    """Return a detached copy of the mount at *path*, without the mounts inside it."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return clone_read_only(fd, name=path) if read_only else clone(fd, name=path)
    finally:
        os.close(fd)


def attach_at(mount_fd: int, path: str) -> None:
    """Attach the detached mount *mount_fd* at the directory *path*, which is not a symlink, and
    close it, also after an error.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            attach(mount_fd, place, name=path)
        finally:
            os.close(place)
    finally:
        os.close(mount_fd)


def bind(source_fd: int, target_fd: int, *, set_: int = 0, clear: int = 0, name: str = "") -> None:
    """Bind the object open as *source_fd* on the one open as *target_fd*, without the mounts inside
    it. The mount has the flags of the source, changed by *set_* and *clear*.

    The bind is private, unless it is attached in a shared mount.
    """
    mount = clone(source_fd, name=name)
    try:
        set_flags(mount, set_=set_, clear=clear, private=True, name=name)
        attach(mount, target_fd, name=name)
    finally:
        os.close(mount)


def set_flags(
    mount_fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    private: bool = False,
    unbindable: bool = False,
    recursive: bool = False,
    name: str = "",
) -> None:
    """Change the flags of one mount (not of its filesystem), or *recursive* of a tree of mounts;
    see mount_setattr(2).

    An *unbindable* mount is also private, and is left out when a tree is cloned.
    """
    propagation = MS_UNBINDABLE if unbindable else MS_PRIVATE if private else 0
    kernel.syscall(
        kernel.SYS_MOUNT_SETATTR,
        mount_fd,
        b"",
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        kernel.constant(_MountAttr, set_, clear, propagation, 0),
        ctypes.sizeof(_MountAttr),
        name=name,
    )


def split_options(options: list[str]) -> tuple[int, int, list[str]]:
    """Split mount options into flags to set, flags to clear and the filesystem's own.

    Options that only user space reads (``x-…``, ``comment=``, ``nofail``, ``auto``,
    ``noauto``, ``defaults``, ``_netdev``, ``user…``) are left out.
    """
    set_ = clear = 0
    own = []
    for option in options:
        if option in MOUNT_FLAGS:
            flag_set, flag_clear = MOUNT_FLAGS[option]
            set_ = (set_ & ~flag_clear) | flag_set
            clear = (clear & ~flag_set) | flag_clear
        elif not is_userspace_option(option):
            own.append(option)
    return set_, clear, own


def is_secret(option: str) -> bool:
    """Whether the *option* is a password (mount.cifs(8)), which no log may show."""
    return option.startswith(("password", "pass="))


def is_userspace_option(option: str) -> bool:
    """Whether mount(8) keeps the option to itself instead of giving it to the kernel."""
    return option in {
        "auto", "noauto", "defaults", "nofail", "_netdev", "user", "nouser", "users", "owner",
        "group",
    } or option.startswith(("x-", "X-", "comment="))  # fmt: skip


def create(fstype: str, source: str, options: list[str]) -> int:
    """Return a detached new mount of the filesystem on *source*; ``OSError`` has its name.

    *options* are mount(8)'s. The error contains the kernel's message about a refused option,
    because the number alone (EINVAL) does not help.
    """
    set_, _, own = split_options(options)
    kind = fstype.encode()
    fs = kernel.syscall(kernel.SYS_FSOPEN, kind, FSOPEN_CLOEXEC, name=fstype)
    try:
        _configure(fs, FSCONFIG_SET_STRING, "source", source, source)
        if set_ & MOUNT_ATTR_RDONLY:
            _configure(fs, FSCONFIG_SET_FLAG, "ro", None, source)
        for option in own:
            key, equals, value = option.partition("=")
            if equals:
                _configure(fs, FSCONFIG_SET_STRING, key, value, source)
            else:
                _configure(fs, FSCONFIG_SET_FLAG, key, None, source)
        _configure(fs, FSCONFIG_CMD_CREATE, None, None, source)
        return kernel.syscall(kernel.SYS_FSMOUNT, fs, FSMOUNT_CLOEXEC, set_, name=source)
    finally:
        os.close(fs)


def create_overlay(lower: int, upper: int, work: int, options: list[str], *, name: str) -> int:
    """Return a detached overlay of the open directories: *upper* over *lower*.

    *options* are the filesystem's own. The directories are passed as paths in /proc, because
    kernels before 6.13 do not accept descriptors; the opened directories are mounted in both cases.
    """
    fs = kernel.syscall(kernel.SYS_FSOPEN, b"overlay", FSOPEN_CLOEXEC, name=name)
    try:
        _configure(fs, FSCONFIG_SET_STRING, "source", "overlay", name)
        for key, fd in (("lowerdir", lower), ("upperdir", upper), ("workdir", work)):
            _configure(fs, FSCONFIG_SET_STRING, key, fd_path(fd), name)
        for option in options:
            key, _, value = option.partition("=")
            _configure(fs, FSCONFIG_SET_STRING, key, value, name)
        _configure(fs, FSCONFIG_CMD_CREATE, None, None, name)
        return kernel.syscall(kernel.SYS_FSMOUNT, fs, FSMOUNT_CLOEXEC, 0, name=name)
    finally:
        os.close(fs)


def _configure(fs: int, command: int, key: str | None, value: str | None, name: str) -> None:
    try:
        kernel.syscall(
            kernel.SYS_FSCONFIG,
            fs,
            command,
            None if key is None else key.encode(),
            None if value is None else os.fsencode(value),
            0,
            name=name,
        )
    except OSError as error:
        said = _messages(fs)
        if said and error.errno is not None:
            raise OSError(error.errno, f"{error.strerror}: {said}", name) from None
        raise


def _messages(fs: int) -> str:
    """The kernel's messages in the filesystem context, see fsopen(2)."""
    lines = []
    while True:
        try:
            line = os.read(fs, 1024)
        except OSError:  # ENODATA: the log is empty
            break
        if not line:
            break
        lines.append(line.decode(errors="replace").strip().removeprefix("e "))
    return "; ".join(lines)


# Flags of the mount, and after sync of the filesystem, that mount(2) drops in a remount unless they
# are given again (linux/mount.h; do_remount() in fs/namespace.c).
_MS_SAID_AGAIN = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "nosymfollow": 256, "noatime": 1024, "nodiratime": 2048,
    "relatime": 1 << 21, "sync": 16, "mand": 64, "dirsync": 128, "lazytime": 1 << 25,
}  # fmt: skip


def make_writable(path: str, options: list[str]) -> None:
    """Make the filesystem mounted at *path* writable: its superblock, and this mount.

    *options* are those of both in mountinfo; all but ``ro`` are kept. Without ``rw`` on the kernel
    command line the superblock itself is read-only; clearing the flag of the mount alone succeeds
    without an effect.
    """
    flags = MS_REMOUNT
    for option in options:
        flags |= _MS_SAID_AGAIN.get(option, 0)
    if kernel.libc.mount(b"none", os.fsencode(path), None, flags, None) != 0:
        kernel.raise_errno(path)


def make_private(path: str) -> None:
    """Stop mount propagation under *path* in both directions."""
    if kernel.libc.mount(None, os.fsencode(path), None, MS_PRIVATE, None) != 0:
        kernel.raise_errno(path)


def detach(path: str) -> None:
    """Lazily unmount the mount at *path*; a symlink is not followed."""
    umount_nofollow = 8
    if kernel.libc.umount2(os.fsencode(path), MNT_DETACH | umount_nofollow) != 0:
        kernel.raise_errno(path)


def unmount(path: str) -> None:
    """Unmount the mount at *path*; a symlink is not followed.

    Raises ``OSError`` (EBUSY) if it is in use.
    """
    umount_nofollow = 8
    if kernel.libc.umount2(os.fsencode(path), umount_nofollow) != 0:
        kernel.raise_errno(path)
