"""A directory that only root can enter, for building files that users will own.

An entry is finished there (owner, mode, ACL, extended attributes, times, flags) before it gets a
name in a directory where a user can write; one rename puts it in place. An entry that is removed
from such a directory is first moved into the workshop and checked there, where users cannot
exchange it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import sys
import time

from ephemeroot.linux import immutable, inode_flags, kernel, paths, removal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = ".ephemeroot-new-"
"""The prefix of the names of workshops, also in users' directories."""

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
# The clock of the kernel's timestamps (current_time() in fs/inode.c).
_CLOCK_REALTIME_COARSE = 5

_INSIDE = "work"
_MARK = "trusted.ephemeroot.workshop"
_OURS, _FOREIGN = b"1", b"2"  # only entries made there; may contain entries of the place


class Workshop:
    """A directory that only root can enter, for new entries of the open directory *place*.

    ``fd`` is the open directory, ``name`` its name. If possible it is made in the open directory
    *preferred*, which only root can write (a store's own records). That needs the same mount,
    subvolume, project and encryption policy, because a rename cannot cross any of these. Otherwise
    it is made in *place*, where it inherits all four. There, users can rename it but not enter it.
    It consists of two nested directories: the outer one is opened by its name in *place* and could
    have been exchanged, so it is verified (root's, mode 0700, empty, just created) and never
    changed; the inner one cannot have been exchanged.

    Use it in a ``with`` statement, which removes it with all remaining content.
    """

    __slots__ = ("_announce", "_foreign", "_outer", "_parent", "fd", "name", "place")

    def __init__(
        self, place: int, preferred: int = -1, announce: Callable[[str], None] | None = None
    ) -> None:
        self.place = place
        self._foreign = False
        fits = preferred >= 0 and is_roots_alone(preferred) and can_rename(preferred, place)
        self._parent = _duplicate(preferred if fits else place)
        self._announce = None if fits else announce
        self._outer = self.fd = -1
        self.name = ""
        try:
            while not self._set_up():
                pass
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> bool:
        """Create the two directories; return whether they still exist once the lock is held. Until
        then they look like those of an interrupted run (``sweep_one``).
        """
        self.name = f"{PREFIX}{os.urandom(8).hex()}"
        if self._announce is not None:
            self._announce(self.name)
        self._outer = _make(self._parent, self.name)
        try:
            os.mkdir(_INSIDE, 0o700, dir_fd=self._outer)
            self.fd = _open_directory(self._outer, _INSIDE)
        except FileNotFoundError:
            os.close(self._outer)
            self._outer = -1
            return False
        _forget_inherited(self.fd)
        _mark(self.fd, _OURS)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        if os.fstat(self.fd).st_nlink:
            return True
        os.close(self.fd)
        os.close(self._outer)
        self.fd = self._outer = -1
        return False

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def clear(self) -> None:
        """Remove its content. Raises ``OSError``, such as EXDEV for a subvolume."""
        for name in paths.names(self.fd):
            removal.remove(self.fd, name, subvolumes=not self._foreign, unlock=True)

    def _expect_foreign(self) -> None:
        """Record that it may contain entries of the place, whose subvolumes are not ours."""
        if not self._foreign:
            self._foreign = True
            _mark(self.fd, _FOREIGN)

    def close(self) -> None:
        """Remove the remaining content and the workshop. Never raises ``OSError``: a rest that
        cannot be removed is unused, and only root can enter it (``sweep``).
        """
        if self._outer >= 0:
            _remove(self._parent, self.name, self._outer, subvolumes=not self._foreign)
        for fd in (self.fd, self._outer, self._parent):
            if fd >= 0:
                os.close(fd)
        self.fd = self._outer = self._parent = -1

    def deliver(self, name: str, new_name: str) -> None:
        """Rename the finished *name* to *new_name* in the place.

        Raises ``FileExistsError`` if that exists: nothing is replaced.
        """
        how = paths.RENAME_NOREPLACE
        immutable.rename(self.fd, name, self.place, new_name, how=how)

    def replace(self, name: str, new_name: str, expected: os.stat_result) -> bool:
        """Exchange the finished *name* with *new_name* of the place.

        Returns whether that is done: the displaced entry is then in the workshop, as *name*. It
        must be the entry that the caller has checked (*expected*), otherwise it is put back. Raises
        ``OSError``: EBUSY if *new_name* is a mount point.
        """
        mine = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        self._expect_foreign()
        try:
            immutable.rename(self.fd, name, self.place, new_name, how=paths.RENAME_EXCHANGE)
        except OSError as error:
            # NFS and 9p cannot exchange names. A plain rename cannot replace a directory by a file.
            if error.errno != errno.EINVAL or stat.S_ISDIR(mine.st_mode):
                raise
            immutable.rename(self.fd, name, self.place, new_name)
            return True
        if _is(self.fd, name, expected):
            return True
        immutable.rename(self.fd, name, self.place, new_name, how=paths.RENAME_EXCHANGE)
        if not os.path.samestat(os.stat(name, dir_fd=self.fd, follow_symlinks=False), mine):
            self._give_back(name, new_name)  # exchanged by another process
        return False

    def take(self, name: str, expected: os.stat_result) -> str:
        """Move the entry *name* of the place into the workshop; return its name there.

        Returns an empty name if it is not the entry that the caller has checked (*expected*), which
        is then put back. Raises ``FileNotFoundError`` if it is missing.
        """
        taken = os.urandom(8).hex()
        self._expect_foreign()
        how = paths.RENAME_NOREPLACE
        immutable.rename(self.place, name, self.fd, taken, how=how)
        if _is(self.fd, taken, expected):
            return taken
        self._give_back(taken, name)
        return ""

    def _give_back(self, name: str, new_name: str) -> None:
        """Return an unexpected entry to the place, under another name if its own is in use."""
        try:
            self.deliver(name, new_name)
        except FileExistsError:
            self.deliver(name, f"{new_name[:200]}.{os.urandom(4).hex()}")


def sweep(place: int) -> None:
    """Remove the workshops of interrupted runs in the open directory *place*."""
    directory = _duplicate(place)
    try:
        with paths.entries(directory) as found:
            names = [entry.name for entry in found if entry.name.startswith(PREFIX)]
        for name in names:
            sweep_one(directory, name)
    finally:
        os.close(directory)


def sweep_one(directory: int, name: str) -> bool:
    """Remove the workshop *name* of an interrupted run; return whether it was one. Other entries
    with such a name stay: a user can give it to a directory that root owns. Empty directories are
    always removed: a run may be interrupted before it marks them, or while it removes them.
    """
    fds: list[int] = []
    try:
        fds.append(_open_directory(directory, name))
        if not paths.names(fds[0]):
            os.rmdir(name, dir_fd=directory)
            return True
        fds.append(_open_directory(fds[0], _INSIDE))
        if paths.names(fds[0]) != [_INSIDE]:
            return False
        mark = os.getxattr(fds[1], _MARK) if paths.names(fds[1]) else _OURS
        if mark not in (_OURS, _FOREIGN):
            return False
        fcntl.flock(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by the run that uses it
        _remove(directory, name, fds[0], subvolumes=mark == _OURS)
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def is_certain(parent: int, present: os.stat_result, owner: int) -> bool:
    """Whether an entry that was opened by a name in the open directory *parent* may be changed in
    place, and get the owner *owner*; *present* is its status by descriptor.

    No user may be able to exchange it. That holds if only root can write to *parent*, and also if
    it belongs to *owner*, who could change it anyway. A regular file with several names may
    be in another directory as well, and is never changed.
    """
    if stat.S_ISREG(present.st_mode) and present.st_nlink != 1:
        return False
    return present.st_uid == owner or is_roots_alone(parent)


def is_roots_alone(fd: int) -> bool:
    """Whether only root can create entries in the open directory."""
    status = os.fstat(fd)
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is(directory: int, name: str, expected: os.stat_result) -> bool:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return os.path.samestat(status, expected) and (
        stat.S_IFMT(status.st_mode), status.st_uid
    ) == (stat.S_IFMT(expected.st_mode), expected.st_uid)  # fmt: skip


def _duplicate(directory: int) -> int:
    """The directory, opened a second time for reading."""
    return paths.open_beneath(directory, ".", os.O_RDONLY | os.O_DIRECTORY)


def _open_directory(parent: int, name: str) -> int:
    return paths.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)


def _make(parent: int, name: str) -> int:
    """Create a directory and open it. Raises ``OSError`` (EBUSY) unless the opened one is the new
    one: only this process's user can enter it, it is empty, and it was just created.
    """
    before = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except PermissionError as error:
        raise immutable.explained(error, parent) from None
    fd = _open_directory(parent, name)
    try:
        status = os.fstat(fd)
        # New directories inherit the setgid bit of their parent.
        mine = status.st_uid == os.geteuid() and status.st_mode & 0o5777 == 0o700
        if not mine or paths.names(fd) or birth(fd, before) < before:
            raise OSError(errno.EBUSY, "replaced while it was created", name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def birth(fd: int, default: int) -> int:
    """The creation time of the open *fd* in nanoseconds; *default* if it is not recorded."""
    statx = getattr(kernel.libc, "statx", None)
    answer = ctypes.create_string_buffer(256)
    # struct statx in include/uapi/linux/stat.h: the mask is first, stx_btime at 80.
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, answer) != 0:
        return default
    if not int.from_bytes(answer.raw[:4], sys.byteorder) & _STATX_BTIME:
        return default
    seconds = int.from_bytes(answer.raw[80:88], sys.byteorder, signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(answer.raw[88:92], sys.byteorder)


def _forget_inherited(fd: int) -> None:
    """Remove the default ACL and the group that the directory has inherited, so that new entries in
    it do not inherit them.
    """
    for name in os.listxattr(fd):
        if name.startswith("system.posix_acl_"):
            os.removexattr(fd, name)
    os.fchown(fd, -1, os.getegid())
    os.fchmod(fd, 0o700)


def _mark(fd: int, value: bytes) -> None:
    """Mark the workshop with an attribute that only root can set. Without such attributes, only the
    administrator can remove what an interrupted run leaves.
    """
    try:
        os.setxattr(fd, _MARK, value)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise


def _remove(parent: int, name: str, outer: int, *, subvolumes: bool) -> None:
    """Remove the content of the open *outer*, and *outer* if it still has the name *name*. If a
    user has renamed it, an empty directory stays in that user's directory.
    """
    try:
        removal.remove(outer, _INSIDE, subvolumes=subvolumes, unlock=True)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if os.path.samestat(status, os.fstat(outer)):
            os.rmdir(name, dir_fd=parent)
    except OSError:
        pass


def can_rename(source: int, target: int) -> bool:
    """Whether an entry that is created in the directory *source* can be renamed into *target*: both
    are on the same mount and subvolume, and the entry fits its project and encryption.
    """
    if os.fstat(source).st_dev != os.fstat(target).st_dev or _mount(source) != _mount(target):
        return False
    flags = inode_flags.flags(target) or 0
    if flags & inode_flags.ENCRYPTED:
        return False
    if not flags & inode_flags.PROJECT_INHERIT:
        return True
    also = (inode_flags.flags(source) or 0) & inode_flags.PROJECT_INHERIT
    return bool(also) and inode_flags.project(source) == inode_flags.project(target)


def _mount(fd: int) -> bytes:
    for line in paths.read(f"/proc/self/fdinfo/{fd}").split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return line
    return b""
