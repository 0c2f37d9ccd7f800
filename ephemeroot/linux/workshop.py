"""Where root builds what a user will have: a directory that only root can enter.

An entry built there is finished (owner, mode, ACL, extended attributes, times, flags) before it has
a name in a directory where a user can write, and it arrives there by one rename. What leaves such a
directory is moved into the workshop first and looked at there, where its name cannot be made to
mean something else.
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
"""How the names of workshops begin, in directories of users as well."""

_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
# The clock of the kernel's timestamps (current_time() in fs/inode.c).
_CLOCK_REALTIME_COARSE = 5

_INSIDE = "work"
_MARK = "trusted.ephemeroot.workshop"
_OURS, _FOREIGN = b"1", b"2"  # all that is in it was made there; something may have been taken in


class Workshop:
    """A directory that only root can enter, for what will be in the open directory *place*.

    ``fd`` is the open directory, ``name`` is its name where it was made. If possible it is made in
    the open directory *preferred*, which only root can write (a store's own records): that takes
    the same mount, subvolume, project and encryption policy, for a rename crosses none of these.
    Otherwise it is made in *place*, where it inherits all four. There, users can rename it but not
    enter it. It is two nested directories: the outer one was opened by its name in
    *place* and could have been exchanged, so it is verified (root's, mode 0700, empty, made just
    now) and never changed; the inner one cannot have been exchanged.

    Use it in a ``with`` statement: leaving it removes it with all that is still in it.
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
        """Make the two directories; whether they are still there once the lock is held: until then
        they look like what an interrupted run has left (``sweep_one``).
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
        """Record that something of the place may be in here: its subvolumes are not ours."""
        if not self._foreign:
            self._foreign = True
            _mark(self.fd, _FOREIGN)

    def close(self) -> None:
        """Remove what is left in it, and itself. Never raises ``OSError``: everything that cannot
        be removed now is unused, and only root can enter it (``sweep``).
        """
        if self._outer >= 0:
            _remove(self._parent, self.name, self._outer, subvolumes=not self._foreign)
        for fd in (self.fd, self._outer, self._parent):
            if fd >= 0:
                os.close(fd)
        self.fd = self._outer = self._parent = -1

    def deliver(self, name: str, new_name: str) -> None:
        """Give what is finished as *name* the name *new_name* in the place.

        Raises ``FileExistsError`` if that exists by now: nothing is ever replaced.
        """
        how = paths.RENAME_NOREPLACE
        immutable.rename(self.fd, name, self.place, new_name, how=how)

    def replace(self, name: str, new_name: str, expected: os.stat_result) -> bool:
        """Exchange what is finished as *name* with what the place has as *new_name*.

        Returns whether that is done: what was displaced is then in the workshop, as *name*. It
        must be what the caller has looked at (*expected*); if it is not, it is put back. Raises
        ``OSError``: EBUSY if the place has a mount point there.
        """
        mine = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        self._expect_foreign()
        try:
            immutable.rename(self.fd, name, self.place, new_name, how=paths.RENAME_EXCHANGE)
        except OSError as error:
            # NFS and 9p exchange nothing. A plain rename replaces no directory by another thing.
            if error.errno != errno.EINVAL or stat.S_ISDIR(mine.st_mode):
                raise
            immutable.rename(self.fd, name, self.place, new_name)
            return True
        if _is(self.fd, name, expected):
            return True
        immutable.rename(self.fd, name, self.place, new_name, how=paths.RENAME_EXCHANGE)
        if not os.path.samestat(os.stat(name, dir_fd=self.fd, follow_symlinks=False), mine):
            self._give_back(name, new_name)  # exchanged again meanwhile
        return False

    def take(self, name: str, expected: os.stat_result) -> str:
        """Move what the place has as *name* into the workshop; return its name there.

        Returns an empty name if it is not what the caller has looked at (*expected*): it is put
        back then. Raises ``FileNotFoundError`` if it is gone.
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
        """Return to the place what was not meant, under another name if its own is taken by now."""
        try:
            self.deliver(name, new_name)
        except FileExistsError:
            self.deliver(name, f"{new_name[:200]}.{os.urandom(4).hex()}")


def sweep(place: int) -> None:
    """Remove the workshops that interrupted runs have left in the open directory *place*."""
    directory = _duplicate(place)
    try:
        with paths.entries(directory) as found:
            names = [entry.name for entry in found if entry.name.startswith(PREFIX)]
        for name in names:
            sweep_one(directory, name)
    finally:
        os.close(directory)


def sweep_one(directory: int, name: str) -> bool:
    """Remove the workshop *name* of an interrupted run; whether it was one. Anything else that has
    such a name stays: a user can give it to a directory of root's. Empty directories are removed
    in any case: a run may be interrupted before it marks them, or while it removes them.
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
        fcntl.flock(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by the run that works in it
        _remove(directory, name, fds[0], subvolumes=mark == _OURS)
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def is_certain(parent: int, present: os.stat_result, owner: int) -> bool:
    """Whether an existing entry that was opened by a name in the open directory *parent* may be
    changed in place, and get the owner *owner*; *present* is its status by descriptor.

    It must be beyond doubt that it is the entry that was meant. That holds if only root can write
    *parent*, and also if it belongs to *owner* already: then that user could change it anyway. A
    regular file with several names may be in another directory, too, and is never changed.
    """
    if stat.S_ISREG(present.st_mode) and present.st_nlink != 1:
        return False
    return present.st_uid == owner or is_roots_alone(parent)


def is_roots_alone(fd: int) -> bool:
    """Whether only root can put something into the open directory."""
    status = os.fstat(fd)
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is(directory: int, name: str, expected: os.stat_result) -> bool:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return os.path.samestat(status, expected) and (
        stat.S_IFMT(status.st_mode), status.st_uid
    ) == (stat.S_IFMT(expected.st_mode), expected.st_uid)  # fmt: skip


def _duplicate(directory: int) -> int:
    """The directory again, open for reading."""
    return paths.open_beneath(directory, ".", os.O_RDONLY | os.O_DIRECTORY)


def _open_directory(parent: int, name: str) -> int:
    return paths.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)


def _make(parent: int, name: str) -> int:
    """Make a directory and open it. Raises ``OSError`` (EBUSY) unless what is open is that: only
    this process' user can enter it, it is empty, and it was made just now.
    """
    before = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except PermissionError as error:
        raise immutable.explained(error, parent) from None
    fd = _open_directory(parent, name)
    try:
        status = os.fstat(fd)
        # A directory with the setgid bit hands that on.
        mine = status.st_uid == os.geteuid() and status.st_mode & 0o5777 == 0o700
        if not mine or paths.names(fd) or birth(fd, before) < before:
            raise OSError(errno.EBUSY, "replaced while it was created", name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def birth(fd: int, default: int) -> int:
    """When the open *fd* was made, in nanoseconds; *default* where that is not recorded."""
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
    """Drop the default ACL and the group that the directory has inherited: what is made in it
    would inherit them, too.
    """
    for name in os.listxattr(fd):
        if name.startswith("system.posix_acl_"):
            os.removexattr(fd, name)
    os.fchown(fd, -1, os.getegid())
    os.fchmod(fd, 0o700)


def _mark(fd: int, value: bytes) -> None:
    """Only root can set such an attribute; where there are none, an interrupted run leaves what
    only the administrator removes.
    """
    try:
        os.setxattr(fd, _MARK, value)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise


def _remove(parent: int, name: str, outer: int, *, subvolumes: bool) -> None:
    """Remove what is in the open *outer*, and that if it still is what *name* says: a user may have
    renamed it meanwhile, and then an empty directory stays where only that user sees it.
    """
    try:
        removal.remove(outer, _INSIDE, subvolumes=subvolumes, unlock=True)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if os.path.samestat(status, os.fstat(outer)):
            os.rmdir(name, dir_fd=parent)
    except OSError:
        pass


def can_rename(source: int, target: int) -> bool:
    """Whether an entry that is made in the directory *source* can be renamed into *target*:
    both are on the same mount and subvolume, and the entry fits its project and encryption.
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
