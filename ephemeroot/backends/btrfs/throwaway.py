"""The temporary subvolumes of a simulated boot: snapshots in one directory, and their removal.

The wiper's settings name only paths in that directory, so it cannot change anything else. The
directory is locked during the simulation; one without a lock is a leftover, which the next
simulation removes.
"""

from __future__ import annotations

import fcntl
import os
import stat

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import paths, removal
from ephemeroot.linux.mounts import fd_path
from ephemeroot.wipers.btrfs import subvolumes
from ephemeroot.wipers.btrfs.toplevel import Toplevel

PREFIX = ".ephemeroot-rehearsal-"

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def new_name() -> str:
    """A name for a ``Throwaway`` that no other has."""
    return f"{PREFIX}{os.urandom(6).hex()}"


class Throwaway:
    """A new directory *name* at the top level *top*, root's alone, locked until the process
    ends.
    """

    def __init__(self, top: Toplevel, name: str) -> None:
        self.top = top
        self.name = name
        os.mkdir(self.name, 0o700, dir_fd=top.fd)
        self.fd = os.open(self.name, _READ, dir_fd=top.fd)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def snapshot(self, path: str, name: str) -> str:
        """A writable snapshot, called *name* in here, of the subvolume *path*; returns its path.

        Raises ``Refused`` if there is no such subvolume.
        """
        try:
            source = subvolumes.open_directory(self.top.fd, path)
        except OSError as error:
            raise Refused(f"the subvolume {path!r} cannot be opened: {error.strerror}") from error
        try:
            if not subvolumes.is_subvolume(source):
                raise Refused(f"{path!r} is not a subvolume")
            subvolumes.snapshot(source, self.fd, name, [])
        finally:
            os.close(source)
        return f"{self.name}/{name}"


def sweep(top: Toplevel, ours: str = "") -> list[str]:
    """Remove the directories of rehearsals that are over, and the one called *ours*, locked or
    not; a line for everything that could not be.
    """
    problems = []
    # Opened again: some kernels do not list entries created after a directory was opened
    # (Linux 6.5; e60aa5da14d0, "btrfs: refresh dir last index during a rewinddir(3) call").
    for name in sorted(paths.names(fd_path(top.fd))):
        if not name.startswith(PREFIX):
            continue
        try:
            _remove(top, name, locked=name == ours)
        except (EphemerootError, OSError) as error:
            problems.append(f"cannot remove {name}: {error}")
    return problems


def _remove(top: Toplevel, name: str, *, locked: bool) -> None:
    """Remove one, proven: an ordinary directory that only root can write, not locked unless it may
    be *locked*, with nothing in it that is mounted or the default subvolume.
    """
    fd = os.open(name, _READ, dir_fd=top.fd)
    try:
        status = os.fstat(fd)
        if status.st_ino == subvolumes.ROOT_INODE or status.st_uid != 0 or status.st_mode & 0o077:
            raise EphemerootError("it was not made by a rehearsal")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not locked:
                return  # it lives
        inside = [path for path in top.mounted() if path == name or path.startswith(f"{name}/")]
        if inside:
            raise EphemerootError(f"{inside[0]} is mounted")
        _empty(top, fd, subvolumes.default(top.fd))
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top.fd)


def _empty(top: Toplevel, directory: int, default: int) -> None:
    """Delete the subvolumes in the open *directory*, and all else that is in it."""
    plain = [""]
    while plain:
        above = plain.pop()
        fd = paths.open_beneath(directory, above or ".", _READ)
        try:
            found = [name for name in paths.names(fd) if _is_plain(top, fd, name, default)]
            plain += [f"{above}/{name}".lstrip("/") for name in found]
        finally:
            os.close(fd)
    for name in paths.names(directory):
        removal.remove(directory, name)


def _is_plain(top: Toplevel, parent: int, name: str, default: int) -> bool:
    """Whether *name* is a directory in the open *parent* that is not a subvolume; one that is has
    been deleted.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return False
    fd = os.open(name, _READ, dir_fd=parent)
    try:
        if not subvolumes.is_subvolume(fd):
            return True
        identity = subvolumes.identify(fd)
        inner = [number for _, number in subvolumes.nested(fd, identity.id)]
        if default in (identity.id, *inner):
            raise EphemerootError(f"{name} is the default subvolume")
        if subvolumes.is_read_only(fd):
            subvolumes.set_read_only(fd, False)
        subvolumes.delete_tree(top.fd, fd, identity.id)
        return False
    finally:
        os.close(fd)
