"""Whether a target is already like its source."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ephemeroot.linux import attributes, comparison, inode_flags, paths
from ephemeroot.linux.bounds import Meter
from ephemeroot.linux.mounts import fd_path


@dataclass(frozen=True, slots=True)
class Entry:
    """Compares entries of the same name in two open directories: files by their content with
    ``content``, else by size and time.
    """

    meter: Meter
    content: bool

    def same(self, source: int, target: int, name: str, path: str) -> bool:
        """Whether the target has an equal entry of that name. The entry must not be a directory.
        Raises ``FileNotFoundError`` if the source lacks it, and ``OutOfBounds``.
        """
        old = paths.open_entry(source, name, os.O_PATH | os.O_NOFOLLOW)
        new = -1
        try:
            new = paths.open_entry(target, name, os.O_PATH | os.O_NOFOLLOW)
            return self._same(old, new, path)
        except FileNotFoundError:
            return False
        finally:
            for fd in (old, new):
                if fd >= 0:
                    os.close(fd)

    def _same(self, old: int, new: int, path: str) -> bool:
        one, other = os.fstat(old), os.fstat(new)
        kind = stat.S_IFMT(one.st_mode)
        if stat.S_IFMT(other.st_mode) != kind or not same_owner(old, new):
            return False
        if kind == stat.S_IFLNK:
            return os.readlink("", dir_fd=old) == os.readlink("", dir_fd=new)
        if kind != stat.S_IFREG:
            return (one.st_mode, one.st_rdev) == (other.st_mode, other.st_rdev)
        if one.st_size != other.st_size or one.st_mode != other.st_mode:
            return False
        files = [os.open(fd_path(fd), os.O_RDONLY | os.O_CLOEXEC) for fd in (old, new)]
        try:
            return same_file(files[0], files[1], self.meter, path, content=self.content)
        finally:
            for fd in files:
                os.close(fd)


def same_file(source: int, target: int, meter: Meter, path: str, *, content: bool) -> bool:
    """Whether two open regular files are the same; without *content* by size and time."""
    one, other = os.fstat(source), os.fstat(target)
    if (one.st_size, one.st_mtime_ns) != (other.st_size, other.st_mtime_ns):
        return False
    if not same_metadata(source, target):
        return False
    return not content or comparison.same_content(source, target, one.st_size, meter, path)


def same_owner(source: int, target: int) -> bool:
    """Whether user and group of two open descriptors are the same."""
    one, other = os.fstat(source), os.fstat(target)
    return (one.st_uid, one.st_gid) == (other.st_uid, other.st_gid)


def same_metadata(source: int, target: int) -> bool:
    """Whether mode, owner, attributes, flags and, of directories, the time are the same."""
    one, other = os.fstat(source), os.fstat(target)
    if one.st_mode != other.st_mode or not same_owner(source, target):
        return False
    if stat.S_ISDIR(one.st_mode) and one.st_mtime_ns != other.st_mtime_ns:
        return False
    return _same_flags(source, target) and _attributes(source) == _attributes(target)


def _same_flags(source: int, target: int) -> bool:
    """Whether the inode flags are the same; of directories on one filesystem also the flags that
    new files inherit.
    """
    if not inode_flags.same(source, target):
        return False
    if not stat.S_ISDIR(os.fstat(source).st_mode):
        return True
    return os.fstat(source).st_dev != os.fstat(target).st_dev or inode_flags.same_storage(
        source, target
    )


def copy_metadata(
    source: int, target: int, failed: Callable[[str, OSError], None] | None = None
) -> None:
    """Copy the metadata; calls *failed* for an extended attribute that cannot be set."""
    inode_flags.clear_last(target)
    for name in set(_attributes(target)) - set(_attributes(source)):
        os.removexattr(target, name)
    if stat.S_ISDIR(os.fstat(source).st_mode):
        inode_flags.begin(source, target)
    attributes.copy(source, target, failed)
    inode_flags.finish(source, target)


def _attributes(fd: int) -> dict[str, bytes]:
    # SELinux's policy sets the label: the target's own is right.
    found = attributes.extended(fd)
    found.pop("security.selinux", None)
    return found


def lstat(directory: int, name: str) -> os.stat_result | None:
    """The status of an entry itself; ``None`` if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
