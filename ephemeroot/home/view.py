"""The present state of the home, and proofs that a file in it is ours."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from ephemeroot.home import bindfs, fuse
from ephemeroot.home.record import Mounted, Record
from ephemeroot.home.user import User
from ephemeroot.linux import mountinfo, paths
from ephemeroot.linux.mountinfo import Mount


class View:
    """The mounts and the record at one moment; call ``look`` after each change."""

    def __init__(self, user: User, record: Record) -> None:
        self.user = user
        self.record = record
        self.boot = paths.read("/proc/sys/kernel/random/boot_id").decode().strip()
        self.mounts: dict[str, Mount] = {}
        self.look()

    def look(self) -> None:
        """Read the mount table again."""
        # Of several mounts at one point, the last one is visible.
        self.mounts = {mount.point: mount for mount in mountinfo.mounts()}

    def mount_at(self, path: str) -> Mount | None:
        """The mount at *path*, whose parents may be symlinks."""
        return self.mounts.get(real(path))

    def mounts_below(self, path: str) -> list[Mount]:
        """The mounts under *path*, without *path* itself."""
        above = f"{real(path)}/"
        return [mount for mount in self.mounts.values() if mount.point.startswith(above)]

    def is_ours(self, mount: Mount, source: str | None = None) -> bool:
        """Whether we made *mount*: by FUSE, as this user, and of *source*, or of the source in the
        record.
        """
        if not fuse.is_fuse(mount) or fuse.owner(mount) != self.user.uid:
            return False
        if source is not None and bindfs.is_mount_of(mount, source):
            return True
        recorded = self._recorded(mount)
        return recorded is not None and (
            bindfs.is_mount_of(mount, recorded.source) or self._is_identical(mount, recorded)
        )

    def shows(self, mount: Mount, source: str) -> bool:
        """Whether our *mount* shows *source*."""
        if bindfs.is_mount_of(mount, source):
            return True
        recorded = self._recorded(mount)
        # bindfs before 1.14.9 loses backslashes, so the record has the right source.
        return (
            recorded is not None
            and recorded.source == source
            and self._is_identical(mount, recorded)
        )

    def _recorded(self, mount: Mount) -> Mounted | None:
        for path, recorded in self.record.mounts.items():
            if real(path) == mount.point:
                return recorded
        return None

    def _is_identical(self, mount: Mount, recorded: Mounted) -> bool:
        """Whether *mount* is the recorded mount of this boot."""
        return (recorded.boot, recorded.device, recorded.fsname) == (
            self.boot,
            mount.major_minor,
            mount.source,
        )

    def remember(self, mount: Mount, source: str) -> Mounted:
        """The record by which *mount* is recognised later."""
        return Mounted(source, self.boot, mount.major_minor, mount.source)

    def is_our_link(self, path: str) -> bool:
        """Whether there is a link at *path* with its recorded target."""
        return path in self.record.links and readlink(path) == self.record.links[path]

    def is_set_aside(self, path: str) -> bool:
        """Whether an interrupted run has moved our link at *path* aside without removing it."""
        return path in self.record.links and readlink(aside(path)) == self.record.links[path]

    def is_our_directory(self, path: str) -> bool:
        """Whether the directory at *path* is the one that we have recorded."""
        inode = self.record.directories.get(path)
        if inode is None:
            return False
        try:
            info = os.lstat(path)
        except OSError:
            return False
        return stat.S_ISDIR(info.st_mode) and info.st_ino == inode

    def ours(self) -> dict[str, str]:
        """The sources of recorded mounts and links that are proven to exist."""
        found = {path: source for path, source in self.record.links.items()
                 if self.is_our_link(path)}  # fmt: skip
        for path, recorded in self.record.mounts.items():
            mount = self.mount_at(path)
            if mount is not None and self.is_ours(mount) and self.shows(mount, recorded.source):
                found[path] = recorded.source
        return found

    def has_only_ours(self, directory: str) -> bool:
        """Whether *directory* contains only our files, so that it can be emptied.

        Raises ``OSError`` if it cannot be read.
        """
        return all(self._is_nothing_else(f"{directory}/{name}") for name in paths.names(directory))

    def _is_nothing_else(self, path: str) -> bool:
        mount = self.mount_at(path)
        if mount is not None:
            return self.is_ours(mount)
        if self.is_our_link(path) or path in (self.user.state, f"{self.user.state}.new"):
            return True
        if any(aside(link) == path and self.is_set_aside(link) for link in self.record.links):
            return True
        return self.is_our_directory(path) and self.has_only_ours(path)


def real(path: str) -> str:
    """*path* with the symlinks above its last component resolved."""
    directory, _, name = path.rpartition("/")
    return f"{os.path.realpath(directory or '/').rstrip('/')}/{name}"


def aside(path: str) -> str:
    """The path under which a link at *path* is checked before its removal. It is the same in each
    run, so that the next run finds the link of an interrupted one.
    """
    directory, _, name = path.rpartition("/")
    return f"{directory}/.ephemeroot-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def readlink(path: str) -> str | None:
    """The target of the symlink at *path*; ``None`` if it is not a symlink."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def is_dead(path: str) -> bool:
    """Whether the process that serves the FUSE filesystem at *path* has ended."""
    try:
        os.statvfs(path)  # the kernel caches the result of stat for a second
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def is_same(one: str, other: str) -> bool:
    """Whether both paths are the same file, also through a bind mount, or would be if they
    existed.
    """
    while True:
        found = _stat(one), _stat(other)
        if found[0] is not None and found[1] is not None:
            return os.path.samestat(found[0], found[1])
        one_parent, _, one_name = one.rpartition("/")
        other_parent, _, other_name = other.rpartition("/")
        if found != (None, None) or one_name != other_name or not (one_parent and other_parent):
            return False
        one, other = one_parent, other_parent


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
