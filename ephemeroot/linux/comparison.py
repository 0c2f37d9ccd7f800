"""Comparison of files, links and directories, with a bound on the bytes that are read."""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import attributes, extents, inode_flags, paths
from ephemeroot.linux.bounds import Bounds, Meter
from ephemeroot.linux.mounts import fd_path
from ephemeroot.linux.walk import Walk

_AT_ONCE = 1 << 20


def same(
    directory: int,
    name: str,
    other_directory: int,
    other_name: str,
    bounds: Bounds | Meter,
) -> bool:
    """Whether both are regular files with the same content, owner, mode, attributes and flags, or
    symbolic links with the same owner and target.

    Symlinks and mounts are not followed; FIFOs do not block, devices are not opened. Holes and
    shared extents are not read. Raises ``OutOfBounds`` if the comparison would exceed *bounds*; a
    ``Meter`` counts over several files.
    """
    meter = bounds if isinstance(bounds, Meter) else Meter(bounds)
    fds: list[int] = []
    try:
        for where, which in ((directory, name), (other_directory, other_name)):
            fd = _open_entry(where, which)
            if fd < 0:
                return False
            fds.append(fd)
        statuses = [os.fstat(fd) for fd in fds]
        if _facts(statuses[0]) != _facts(statuses[1]):
            return False
        if stat.S_ISLNK(statuses[0].st_mode):
            return os.readlink("", dir_fd=fds[0]) == os.readlink("", dir_fd=fds[1])
        if not stat.S_ISREG(statuses[0].st_mode):
            return False
        if os.path.samestat(*statuses):
            return True
        for number in (0, 1):
            fds.append(os.open(fd_path(fds[number]), os.O_RDONLY | os.O_CLOEXEC))
        one, other = fds[2:]
        if not inode_flags.same(one, other):
            return False
        return attributes.extended(one) == attributes.extended(other) and same_content(
            one, other, statuses[0].st_size, meter, name
        )
    finally:
        for fd in fds:
            os.close(fd)


def same_tree(
    directory: int,
    name: str,
    other_directory: int,
    other_name: str,
    meter: Meter,
) -> bool:
    """Like ``same``, and whether two directories have the same owner, mode and, at every depth,
    entries.

    Raises ``OutOfBounds``, and ``OSError`` if a directory cannot be read: EXDEV for a mount point.
    """
    if not _are_directories(directory, name, other_directory, other_name):
        return same(directory, name, other_directory, other_name, meter)
    here, there = Walk(directory, name), Walk(other_directory, other_name)
    try:
        left: list[list[str]] = []
        while here.path:
            if len(left) < here.depth:
                below = _same_entries(here.fd, there.fd, meter)
                if below is None:
                    return False
                left.append(below)
            if left[-1]:
                each = left[-1].pop()
                meter.check_depth(here.depth + 1, each)
                here.enter(each)
                there.enter(each)
            else:
                left.pop()
                here.leave()
                there.leave()
        return True
    finally:
        here.close()
        there.close()


def _same_entries(one: int, other: int, meter: Meter) -> list[str] | None:
    """The subdirectories of two open directories, which remain to be compared; ``None`` if other
    entries, or the directories themselves, differ.
    """
    if _owner(os.fstat(one)) != _owner(os.fstat(other)):
        return None
    names = sorted(paths.names(one))
    if names != sorted(paths.names(other)):
        return None
    below = []
    for each in names:
        meter.count_entry(each)
        if _are_directories(one, each, other, each):
            below.append(each)
        elif not same(one, each, other, each, meter):
            return None
    return below


def _owner(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _are_directories(one: int, name: str, other: int, other_name: str) -> bool:
    try:
        modes = [
            os.stat(each, dir_fd=where, follow_symlinks=False).st_mode
            for where, each in ((one, name), (other, other_name))
        ]
    except FileNotFoundError:
        return False
    return all(stat.S_ISDIR(mode) for mode in modes)


def _open_entry(directory: int, name: str) -> int:
    """Open the entry with ``O_PATH``; -1 if it is missing or cannot be compared."""
    try:
        return paths.open_entry(directory, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return -1
        raise


def _facts(status: os.stat_result) -> tuple[int, int, int, int]:
    return *_owner(status), status.st_size


def same_content(one: int, other: int, size: int, meter: Meter, path: str) -> bool:
    """Whether two open files of *size* bytes have the same content; see ``same``."""
    sharing = extents.Sharing(one, other)
    position = 0
    while position < size:
        meter.check_time(path)
        mine = extents.next_data(one, position, size)
        others = extents.next_data(other, position, size)
        start = min(mine[0], others[0])
        if start >= size:
            return True
        position = min(data[1] if data[0] == start else data[0] for data in (mine, others))
        if mine[0] == others[0]:
            if not _same_data(one, other, start, position, sharing, meter, path):
                return False
        elif not _is_zero(one if mine[0] == start else other, start, position, meter, path):
            return False
    return True


def _same_data(
    one: int,
    other: int,
    start: int,
    end: int,
    sharing: extents.Sharing,
    meter: Meter,
    path: str,
) -> bool:
    while start < end:
        meter.check_time(path)
        stop, is_shared = sharing.end(start, end)
        while start < stop and not is_shared:
            size = min(stop - start, _AT_ONCE)
            meter.count_read(2 * size, path)
            part = os.pread(one, size, start)
            if part != os.pread(other, size, start):
                return False
            if not part:
                return False  # both were truncated meanwhile
            start += len(part)
        start = max(start, stop)
    return True


def _is_zero(fd: int, start: int, end: int, meter: Meter, path: str) -> bool:
    while start < end:
        size = min(end - start, _AT_ONCE)
        meter.count_read(size, path)
        part = os.pread(fd, size, start)
        if not part or part.count(0) != len(part):
            return False
        start += len(part)
    return True
