"""Immutable and append-only inodes (chattr(1)): they are renamed and linked anyway, and named in
the error if they prevent a change.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import paths, subvolume
from ephemeroot.linux.inode_flags import (
    LAST,
    PROJECT_INHERIT,
    _described,
    described,
    flags,
    project,
    set_flags,
    set_last,
    set_project,
)
from ephemeroot.linux.mounts import fd_path


class Lifted:
    """The open *fd* with the flags i and a cleared, and a subvolume made writable; ``restore`` sets
    them again.
    """

    __slots__ = ("_fd", "_flags", "_project", "_read_only")

    def __init__(self, fd: int, to_project: int | None = None) -> None:
        self._fd = os.dup(fd)
        self._flags = 0
        self._project = -1
        self._read_only = False
        try:
            if subvolume.is_read_only(fd):
                subvolume.set_read_only(fd, False)
                self._read_only = True
            present = flags(fd) or 0
            if present & LAST:
                set_flags(fd, present & ~LAST)
                self._flags = present & LAST
            if to_project is not None and project(fd) != to_project:
                self._project = project(fd)
                set_project(fd, to_project)
        except BaseException:
            self.restore()
            raise

    def __enter__(self) -> Lifted:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Restore the flags. Raises ``OSError``."""
        try:
            if self._project >= 0:
                set_project(self._fd, self._project)
                self._project = -1
            if self._flags:
                set_last(self._fd, self._flags)
                self._flags = 0
            if self._read_only:
                subvolume.set_read_only(self._fd, True)
                self._read_only = False
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def open_entry(directory: int, name: str) -> int:
    """Open the file or directory *name* of the open *directory* for reading; symlinks and mounts
    are not followed. -1 if it is neither, or missing.
    """
    try:
        item = paths.open_entry(directory, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        kind = stat.S_IFMT(os.fstat(item).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            return -1
        return os.open(fd_path(item), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    finally:
        os.close(item)


class _Both:
    """Two entries with the flags i and a cleared; the first also gets the project of *target*."""

    __slots__ = ("_lifted",)

    def __init__(self, source: int, name: str, target: int, new_name: str) -> None:
        self._lifted: list[Lifted] = []
        for directory, entry in ((source, name), (target, new_name)):
            fd = open_entry(directory, entry)
            if fd < 0:
                continue
            try:
                to_project = None
                if directory == source and (flags(target) or 0) & PROJECT_INHERIT:
                    to_project = project(target)
                self._lifted.append(Lifted(fd, to_project))
            finally:
                os.close(fd)

    def __enter__(self) -> _Both:
        return self

    def __exit__(self, *_: object) -> None:
        for lifted in self._lifted:
            lifted.restore()


def rename(source: int, name: str, target: int, new_name: str, *, how: int = 0) -> None:
    """``paths.rename`` of entries that may be immutable, append-only or read-only subvolumes, or
    may have another project than *target*; they keep all of that.

    Raises ``OSError``: EPERM, with the reason, if one of the directories is immutable or
    append-only.
    """
    try:
        paths.rename(source, name, target, new_name, flags=how)
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EROFS, errno.EXDEV):
            raise
        if error.errno == errno.EXDEV and os.fstat(source).st_dev != os.fstat(target).st_dev:
            raise
    with _Both(source, name, target, new_name):
        try:
            paths.rename(source, name, target, new_name, flags=how)
        except PermissionError as error:
            raise explained(error, target, source) from None


def link(source: int, name: str, target: int, new_name: str) -> None:
    """link(2) of a file that may be immutable or append-only, and stays so."""
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        return
    except PermissionError:
        fd = open_entry(source, name)
        if fd < 0:
            raise
    try:
        with Lifted(fd):
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    finally:
        os.close(fd)


def explained(error: OSError, *directories: int) -> OSError:
    """*error* (EPERM), with the reason if one of the open *directories* is immutable or
    append-only.
    """
    for directory in directories:
        found = (flags(directory) or 0) & LAST
        if found:
            where = os.readlink(f"/proc/self/fd/{directory}")
            return OSError(
                errno.EPERM,
                f"the directory is {_described(found)} (see chattr(1) and lsattr(1))",
                where,
            )
    return error


def culprit(root: int, path: str) -> tuple[str, str]:
    """The first of *path* in the open *root* and of its parents that is immutable or append-only,
    and which of both it is; empty if there is none.
    """
    parts = [part for part in path.split("/") if part]
    for count in range(len(parts) + 1):
        place = "/" + "/".join(parts[:count])
        try:
            item = paths.open_in_root(root, place)
            try:
                if stat.S_IFMT(os.fstat(item).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                    break
            finally:
                os.close(item)
            fd = paths.open_in_root(root, place, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            break
        try:
            if word := described(fd):
                return place, word
        finally:
            os.close(fd)
    return "", ""
