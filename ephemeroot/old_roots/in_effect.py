"""Whether declared paths are in effect now: mounts, inodes and links as they are.

The report of a boot describes the state at boot. Since then a program may have replaced a link or
a file of the store, and an administrator may have unmounted a path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from ephemeroot.hooks.operation import Operation, Persisted
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.records import MARKER
from ephemeroot.hooks.store import accounts
from ephemeroot.linux import mountinfo, paths, workshop
from ephemeroot.linux.mountinfo import Mount

_KINDS = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link"}
_COPY = 'use method = "copy" for a file that programs replace'
_BIND = 'use method = "bind" for this directory'


@dataclass(frozen=True, slots=True)
class NotInEffect:
    """A declared path that is not in effect, and the ``reason``. ``since`` is in seconds since
    1970, ``None`` if no one has recorded when that happened.
    """

    path: str
    store: str
    reason: str
    since: float | None = None
    hint: str = ""


def look(root: str, operations: Iterable[tuple[Operation, str]]) -> list[NotInEffect]:
    """Look at the declared paths of the running machine at *root*: each operation comes with its
    result in the report of this boot. Raises ``PermissionError`` if this user may not look.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts = mountinfo.mounts()
        found = [
            _Look(root, top, mounts, operation, result).run()
            for operation, result in operations
            if isinstance(operation, Persisted) and not result.startswith("failed")
        ]
    finally:
        os.close(top)
    return [one for one in found if one is not None]


class _Look:
    """The look at one path."""

    def __init__(
        self, root: str, top: int, mounts: list[Mount], operation: Persisted, result: str
    ) -> None:
        self.root = root
        self.top = top
        self.mounts = mounts
        self.operation = operation
        self.result = result
        self.stored = f"{operation.store.rstrip('/')}/{operation.source}"

    def run(self) -> NotInEffect | None:
        if isinstance(self.operation, Copy):
            return self._copy()
        if isinstance(self.operation, Overlay):
            mount = self._mount()
            if mount is not None and mount.fstype == "overlay":
                return None
            return self._not_mounted(mount)
        if self._status(f"{self.operation.store.rstrip('/')}/{MARKER}") is None:
            # The store itself is not mounted there; binds from it stay mounted.
            return self._link() if self._is_link() else self._mounted()
        source, live = self._status(self.stored, follow=False), self._status(self.operation.path)
        if source is not None and live is not None and os.path.samestat(source, live):
            return None
        if self._is_link():
            return self._link()
        if live is None and self._is_inside():
            return None  # a program may create it, in the store
        return self._bind(source, live)

    def _is_inside(self) -> bool:
        """Whether the directory of the path is the store's: all that is made there is kept."""
        live = self._status(os.path.dirname(self.operation.path))
        stored = self._status(os.path.dirname(self.stored), follow=False)
        return live is not None and stored is not None and os.path.samestat(live, stored)

    def _is_link(self) -> bool:
        """Whether this boot has made a link."""
        method = getattr(self.operation, "method", "")
        if "bound" in self.result:  # where a link could not replace what the base has
            return False
        return method == "symlink" or "link" in self.result

    def _link(self) -> NotInEffect | None:
        leaf = self._status(self.operation.path, follow=False)
        if leaf is None:
            return self._found("the link into the store was removed", None, "")
        if stat.S_ISLNK(leaf.st_mode):
            leads = self._read_link()
            if leads == self.stored:
                return None  # the store has nothing yet: a program may create it by the link
            return self._found(f"the link leads to {leads}", self._birth(), "")
        kind = _KINDS.get(stat.S_IFMT(leaf.st_mode), "something else")
        hint = _BIND if isinstance(self.operation, Directory) else _COPY
        return self._found(
            f"a program has replaced the link into the store by {kind}", self._birth(), hint
        )

    def _bind(
        self, source: os.stat_result | None, live: os.stat_result | None
    ) -> NotInEffect | None:
        mount = self._mount()
        if mount is None or live is None:
            return self._not_mounted(None)
        what = "file" if isinstance(self.operation, File) else "directory"
        again = f"umount {self.operation.path}; {self._again()}"
        if source is None:
            return self._found(f"the {what} of the store was removed", live.st_ctime, again)
        if live.st_dev == source.st_dev:
            reason = f"the {what} of the store was replaced, but the previous one is still bound"
            return self._found(reason, live.st_ctime, again)
        return self._not_mounted(mount)

    def _mounted(self) -> NotInEffect | None:
        return None if self._mount() is not None else self._not_mounted(None)

    def _not_mounted(self, mount: Mount | None) -> NotInEffect:
        if mount is None:
            return self._found("it is no longer mounted", None, self._again())
        reason = f"another filesystem is mounted over it ({mount.fstype}, {mount.source})"
        return self._found(reason, None, f"umount {self.operation.path}")

    def _again(self) -> str:
        if isinstance(self.operation, Overlay):
            return "reboot"
        return f"mount --bind {self.stored} {self.operation.path}"

    def _copy(self) -> NotInEffect | None:
        leaf = self._status(self.operation.path, follow=False)
        if leaf is None or stat.S_ISREG(leaf.st_mode):
            return None
        if stat.S_ISLNK(leaf.st_mode) and self.operation.path not in accounts.MERGED:
            return None  # copied as a link
        kind = _KINDS.get(stat.S_IFMT(leaf.st_mode), "something else")
        return self._found(f"{kind} replaced the file, and is not copied back", self._birth(), "")

    def _found(self, reason: str, since: float | None, hint: str) -> NotInEffect:
        return NotInEffect(self.operation.path, self.operation.store, reason, since, hint)

    def _status(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """The status of *path* inside the root."""
        fd = self._open(path, follow=follow)
        if fd < 0:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _open(self, path: str, *, follow: bool) -> int:
        flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
        try:
            return paths.open_in_root(self.top, path, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return -1
            raise

    def _read_link(self) -> str:
        fd = self._open(self.operation.path, follow=False)
        try:
            return os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)

    def _birth(self) -> float:
        """When the file that now has the declared name was made."""
        fd = self._open(self.operation.path, follow=False)
        try:
            return workshop.birth(fd, os.fstat(fd).st_ctime_ns) / 1e9
        finally:
            os.close(fd)

    def _mount(self) -> Mount | None:
        """The mount at the path."""
        fd = self._open(self.operation.path, follow=True)
        if fd < 0:
            return None
        try:
            number = _mount_id(fd)
        finally:
            os.close(fd)
        place = os.path.realpath(f"{self.root.rstrip('/')}{self.operation.path}")
        here = [mount for mount in self.mounts if mount.id == number]
        return next((mount for mount in here if mount.point == place), None)


def _mount_id(fd: int) -> int:
    for line in paths.read(f"/proc/self/fdinfo/{fd}").split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return int(line.partition(b":")[2])
    return -1
