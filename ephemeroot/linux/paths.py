"""Opening and creating paths that another process may change at the same time.

In a directory where a user can write, root uses only ``openat2`` (openat2(2)) and descriptors: a
path may name another file a moment after a check, an open descriptor cannot.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from ephemeroot.linux import kernel

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_ENTRY = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV

# include/uapi/linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def have_standard_streams() -> None:
    """Open /dev/null for each missing standard stream of this process.

    Otherwise the next opened file gets its number, and messages are written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(root: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open *path* in the directory *root*; no symlink is followed.

    For trees in which users can write. Raises ``OSError``: ELOOP for a symlink in the path, EXDEV
    if the path leaves *root*.
    """
    return _openat2(root, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def open_entry(directory: int, name: str, flags: int) -> int:
    """Open the entry *name* of the open *directory*, not a mount on it.

    Raises ``OSError``: EXDEV for a mount point, ELOOP for a symlink.
    """
    return _openat2(directory, name, flags, 0, _ENTRY)


def open_regular(directory: int, path: str, flags: int = os.O_RDONLY) -> int:
    """Open the regular file *path* in *directory*; no symlink is followed.

    The type is checked before: a FIFO does not block, a device is not started. Raises ``OSError``:
    EBUSY if it is not a regular file.
    """
    item = open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(item).st_mode):
            raise OSError(errno.EBUSY, "is not a regular file", path)
        return os.open(f"/proc/self/fd/{item}", flags | os.O_CLOEXEC)
    finally:
        os.close(item)


def make_directories(root: int, path: str, mode: int) -> None:
    """Create the directory *path* and its parents in the open *root*; no symlink is followed. New
    directories get *mode*, restricted by the umask.
    """
    parent = os.dup(root)
    try:
        for part in path.split("/"):
            try:
                os.mkdir(part, mode, dir_fd=parent)
            except FileExistsError:
                pass
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            deeper = open_beneath(parent, part, flags)
            os.close(parent)
            parent = deeper
    finally:
        os.close(parent)


def names(directory: int | str | os.PathLike[str]) -> list[str]:
    """The present names in *directory*, an open one or a path.

    On btrfs, ``os.listdir`` alone returns the names at the time when the directory was opened or
    last listed (since Linux 6.5; fs/btrfs/inode.c, btrfs_opendir and btrfs_dir_llseek).
    """
    if isinstance(directory, int):
        os.lseek(directory, 0, os.SEEK_SET)
    return os.listdir(directory)  # noqa: TID251  # the seek above makes the names current


def entries(directory: int | str | os.PathLike[str]) -> os._ScandirIterator[str]:
    """The entries, like ``os.scandir``; for a ``with`` statement."""
    if isinstance(directory, int):
        os.lseek(directory, 0, os.SEEK_SET)
        return os.scandir(directory)  # noqa: TID251  # as above
    return os.scandir(os.fspath(directory))  # noqa: TID251  # the path is opened here


def open_in_root(root: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open *path* as a process whose root directory is *root* would.

    Symlinks are followed, absolute ones inside *root*. For trees that only the
    administrator writes, such as a new root.
    """
    return _openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def _openat2(root: int, path: str, flags: int, mode: int, resolve: int) -> int:
    relative = path if resolve & RESOLVE_IN_ROOT else path.lstrip("/")
    raw = os.fsencode(relative or ".")
    how = kernel.constant(_OpenHow, flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return kernel.syscall(
                kernel.SYS_OPENAT2, root, raw, how, ctypes.sizeof(_OpenHow), name=path
            )
        except BlockingIOError:
            # A rename raced with the walk (openat2(2), EAGAIN): retry. An attacker would have to
            # rename faster than the kernel walks to keep this loop running.
            continue


def rename(
    source_directory: int, source: str, target_directory: int, target: str, *, flags: int = 0
) -> None:
    """``renameat2``: ``RENAME_EXCHANGE`` exchanges both names atomically; ``RENAME_NOREPLACE``
    raises ``FileExistsError`` for an existing target, also on filesystems without flags (NFS, 9p:
    EINVAL, see fs/nfs/dir.c, nfs_rename).
    """
    if not kernel.libc.renameat2(
        source_directory, os.fsencode(source), target_directory, os.fsencode(target), flags
    ):
        return
    if flags == RENAME_NOREPLACE and ctypes.get_errno() == errno.EINVAL:
        _rename_without_flags(source_directory, source, target_directory, target)
    else:
        kernel.raise_errno(f"{source} -> {target}")


def _rename_without_flags(
    source_directory: int, source: str, target_directory: int, target: str
) -> None:
    status = os.stat(source, dir_fd=source_directory, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        # link(2) never replaces. A power cut in between leaves two names for one file.
        os.link(
            source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory,
            follow_symlinks=False,
        )  # fmt: skip
        os.unlink(source, dir_fd=source_directory)
        return
    try:
        os.stat(target, dir_fd=target_directory, follow_symlinks=False)
    except FileNotFoundError:
        # A directory that appears here is replaced only if it is empty (rename(2)).
        os.rename(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)


def write_atomically(path: str, content: bytes, mode: int = 0o644) -> None:
    """Replace the content of *path* so that a power cut leaves the old or the new content."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        try:
            os.fchmod(fd, mode)  # not subject to the umask
            write_whole(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def write_whole(fd: int, content: bytes) -> None:
    """Write all of *content*: write(2) may write less than it is given."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: str) -> None:
    """Write the names in the directory *path* to its disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: str, limit: int = 1 << 20) -> bytes:
    """Return at most *limit* bytes of a file; the fast way to read /proc and /sys."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        left = limit
        # A buffer of that size is allocated, even for a short file.
        while left > 0 and (part := os.read(fd, min(left, 1 << 17))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)
