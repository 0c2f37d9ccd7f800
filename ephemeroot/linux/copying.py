"""Copying a tree as it is: owners, modes, times, extended attributes, links, holes.

Source and destination are open directories and nothing is followed, so a tree that
somebody is changing meanwhile can spoil its own copy and nothing else. On btrfs and xfs
file contents are shared with the source (``FICLONE``, ioctl_ficlone(2)) and cost nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from ephemeroot.linux import paths
from ephemeroot.linux.mounts import fd_path
from ephemeroot.linux.walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FICLONE = 0x40049409

# EAGAIN: ZFS shares no blocks that are not on the disk yet.
_NO_SHARING = (
    errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY, errno.EAGAIN,
)  # fmt: skip


class TooLarge(Exception):
    """More bytes had to be copied than were allowed."""


class Copier:
    """Copies trees and counts: ``copied`` bytes really copied, ``shared`` bytes shared,
    ``entries`` names made.

    ``limit`` is how many bytes may really be copied, ``None`` for no limit; one more
    raises ``TooLarge`` and leaves what has been made for the caller to remove. ``progress``
    is called with the name at hand whenever ``copied`` or ``shared`` has grown.
    """

    __slots__ = ("_links", "copied", "entries", "limit", "progress", "shared")

    def __init__(
        self, limit: int | None = None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        self.limit = limit
        self.progress = progress
        self.copied = self.shared = self.entries = 0
        self._links: dict[tuple[int, int], str] = {}

    def copy(self, source: int, name: str, target: int, new_name: str) -> None:
        """Copy the entry *name* of the directory *source* into *target* as *new_name*.

        Raises ``FileExistsError`` if that exists. Sockets are passed over: they are
        nothing without their process. So is what is mounted in a tree: there is a directory
        for it, and no more.
        """
        self._links.clear()
        if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            self._copy_tree(source, name, target, new_name)
        else:
            self._copy_leaf(source, name, target, new_name)

    def copy_file(self, source: int, name: str, target: int, new_name: str) -> None:
        """The same for what must be a regular file; ``OSError`` if it is none by now."""
        self._links.clear()
        self._copy_file(source, name, target, new_name)
        self.entries += 1

    def _copy_tree(self, source: int, name: str, target: int, new_name: str) -> None:
        """Copy a directory, however deep it is: with one descriptor on either side."""
        here = Walk(source, name)
        there: Walk | None = None
        try:
            os.mkdir(new_name, 0o700, dir_fd=target)
            there = Walk(target, new_name)
            self.entries += 1
            left = [os.listdir(here.fd)]
            while left:
                if not left[-1]:
                    left.pop()
                    copy_attributes(here.fd, there.fd)
                    here.leave()
                    there.leave()
                    continue
                entry = left[-1].pop()
                status = os.stat(entry, dir_fd=here.fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    self._copy_leaf(here.fd, entry, there.fd, entry, (target, there.path))
                    continue
                os.mkdir(entry, 0o700, dir_fd=there.fd)
                self.entries += 1
                there.enter(entry)
                try:
                    here.enter(entry)
                    left.append(os.listdir(here.fd))
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    os.fchown(there.fd, status.st_uid, status.st_gid)
                    os.fchmod(there.fd, stat.S_IMODE(status.st_mode))
                    there.leave()
        finally:
            here.close()
            if there is not None:
                there.close()

    def _copy_leaf(
        self,
        source: int,
        name: str,
        target: int,
        new_name: str,
        place: tuple[int, str] | None = None,
    ) -> None:
        """Copy what is no directory. *place*: the path of *target* below an open directory."""
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return
        if kind == stat.S_IFREG:
            try:
                self._copy_file(source, name, target, new_name, place)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return
                raise
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), new_name, dir_fd=target)
        else:
            os.mknod(new_name, status.st_mode, status.st_rdev, dir_fd=target)
        self.entries += 1
        if kind != stat.S_IFREG:
            _copy_attributes_by_name(source, name, target, new_name, status)

    def _copy_file(
        self,
        source: int,
        name: str,
        target: int,
        new_name: str,
        place: tuple[int, str] | None = None,
    ) -> None:
        # O_NONBLOCK: a fifo may have taken the file's place since it was looked at.
        old = paths.open_entry(source, name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(old)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EBUSY, "changed while it was copied", name)
            if status.st_nlink > 1 and place and self._link(status, target, new_name, *place):
                return
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            new = os.open(new_name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                self._copy_content(old, new, status.st_size, name)
                copy_attributes(old, new)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _link(
        self, status: os.stat_result, target: int, new_name: str, top: int, path: str
    ) -> bool:
        """Link to the copy of the same file, if there is one and it can still be reached.

        By its path below *top*: a descriptor for each file with several names would be more
        than a process may have.
        """
        first = self._links.setdefault((status.st_dev, status.st_ino), f"{path}/{new_name}")
        if first == f"{path}/{new_name}":
            return False
        head, _, name = first.rpartition("/")
        try:
            directory = paths.open_beneath(top, head, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False
            raise
        try:
            os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EMLINK:
                return False
            raise
        finally:
            os.close(directory)
        return True

    def _copy_content(self, old: int, new: int, size: int, name: str) -> None:
        if size == 0:
            return
        try:
            fcntl.ioctl(new, FICLONE, old)
            self.shared += size
            if self.progress is not None:
                self.progress(name)
            return
        except OSError as error:
            if error.errno not in _NO_SHARING:
                raise
        position = 0
        while position < size:
            start, end = _next_data(old, position, size)
            self._copy_range(old, new, start, end, name)
            position = end
        os.ftruncate(new, size)

    def _copy_range(self, old: int, new: int, start: int, end: int, name: str) -> None:
        if self.limit is not None and self.copied + end - start > self.limit:
            raise TooLarge
        os.lseek(new, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(new, old, start, min(end - start, 1 << 24))
            if sent == 0:
                return  # it has become shorter
            start += sent
            self.copied += sent
            if self.progress is not None:
                self.progress(name)


def same(directory: int, name: str, other_directory: int, other_name: str) -> bool:
    """Whether both are regular files with the same content, owner, mode and attributes."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fds: list[int] = []
    try:
        for where, which in ((directory, name), (other_directory, other_name)):
            try:
                fds.append(os.open(which, flags, dir_fd=where))
            except OSError as error:
                # Not there, a link, a socket: whatever it is, it is not the same.
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    return False
                raise
        return _facts(fds[0]) == _facts(fds[1]) and _same_content(fds[0], fds[1])
    finally:
        for fd in fds:
            os.close(fd)


# What a filesystem says of its own, and another one cannot hold.
_FILESYSTEMS_OWN = ("btrfs.", "system.nfs4_")


def _facts(fd: int) -> tuple[object, ...]:
    status = os.fstat(fd)
    attributes = {name: os.getxattr(fd, name) for name in os.listxattr(fd)
                  if not name.startswith(_FILESYSTEMS_OWN)}  # fmt: skip
    return status.st_mode, status.st_uid, status.st_gid, status.st_size, attributes


def _same_content(fd: int, other: int) -> bool:
    while True:
        part = os.read(fd, 1 << 20)
        if part != os.read(other, 1 << 20):
            return False
        if not part:
            return True


def _next_data(fd: int, position: int, size: int) -> tuple[int, int]:
    """The next stretch that is no hole; ``(size, size)`` if only a hole is left."""
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # a filesystem that knows no holes
            return position, size
        raise


def copy_attributes(old: int, new: int) -> None:
    """Give the open *new* the owner, mode, extended attributes and times of the open *old*."""
    status = os.fstat(old)
    os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))  # after chown, which clears setuid
    _copy_extended(old, new)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_attributes_by_name(
    source: int, name: str, target: int, new_name: str, status: os.stat_result
) -> None:
    """The same for what cannot be opened: a link, a device. *status* is the source's."""
    os.chown(new_name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        # No symlink can be here: the name was made a moment ago, below a directory that is
        # root's alone.
        os.chmod(new_name, stat.S_IMODE(status.st_mode), dir_fd=target)
    # There are no calls that take a descriptor and a name.
    _copy_extended(f"{fd_path(source)}/{name}", f"{fd_path(target)}/{new_name}")
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(new_name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_extended(old: int | str, new: int | str) -> None:
    """Copy the extended attributes of what is open, or of what has that path itself."""
    follow = isinstance(old, int)
    for name in os.listxattr(old, follow_symlinks=follow):
        value = os.getxattr(old, name, follow_symlinks=follow)
        try:
            os.setxattr(new, name, value, follow_symlinks=follow)
        except OSError as error:
            # A filesystem without labels or with its own properties (btrfs.compression)
            # must not make a copy of the data impossible.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
