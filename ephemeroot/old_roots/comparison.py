"""The differences between two trees, without following anything in either.

Directories are opened one at a time by their path from the top (openat2(2)), so that neither
the depth of a tree nor a symlink that appears in it leads anywhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ephemeroot.linux import bounds, paths
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.comparison import same_content
from ephemeroot.linux.mounts import fd_path

ADDED, CHANGED, DELETED = "added", "changed", "deleted"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs.

    ``size`` is in bytes: of a file, or of all files in a directory that was ``ADDED`` or
    ``DELETED`` as a whole, which has ``entries`` in it. ``what`` lists the ``CHANGED`` aspects:
    ``kind``, ``content``, ``target``, ``owner``, ``mode`` or ``attributes``.
    """

    path: str
    change: str
    kind: str
    size: int
    entries: int = 0
    what: tuple[str, ...] = ()


@dataclass
class Comparison:
    """Compares an old tree with a new one.

    ``skip`` says which paths (from the top, ``/etc/x``) are left out with all below them.
    ``made`` are directories and files that the persistence stage made as mount points of persistent
    paths: they are a difference only if other entries are in them. ``changed_since`` says which
    inodes can differ at all, see ``History.changed_since``. ``related``: one tree is a snapshot of
    the other, so inode numbers and ctimes can be compared. ``content``: compare the content of
    every file; otherwise only of files whose size is equal and whose time differs.

    Each path that cannot be read is a line in ``problems``. ``meter`` counts the entries and bytes
    that are read.
    """

    skip: Callable[[str], bool] = lambda path: False
    made: Container[str] = frozenset()
    changed_since: Callable[[str, int], bool] | None = None
    related: bool = False
    content: bool = False
    problems: list[str] = field(default_factory=list)
    meter: Meter = field(default_factory=lambda: Meter(bounds.attended()))

    def run(self, old: int | None, new: int) -> Iterator[Difference]:
        """Differences between the open directories *old* (``None``: empty) and *new*, in no
        particular order. Reaching a limit of ``meter`` is a problem.
        """
        try:
            yield from self._run(old, new)
        except OutOfBounds as reason:
            self.problems.append(f"not everything was compared: {reason}")

    def _run(self, old: int | None, new: int) -> Iterator[Difference]:
        todo: list[_Todo] = [("/", old, self.changed_since)]
        while todo:
            path, counterpart, changed_since = todo.pop()
            alike = self._alike(counterpart, new, path, changed_since)
            before = {} if counterpart is None else self._list(counterpart, path, alike)
            after = self._list(new, path, alike)
            here = after.pop(".", None)
            before.pop(".", None)
            for name, status in after.items():
                found = _join(path, name)
                was = before.pop(name, None)
                if self.skip(found):
                    continue
                # Inode numbers mean something in one subvolume only.
                inside = changed_since if here and status.st_dev == here.st_dev else None
                if was is None or counterpart is None:
                    yield from self._added(new, found, status, todo)
                elif inside is None or inside(found, status.st_ino):
                    yield from self._changed(counterpart, new, found, was, status)
                    if stat.S_ISDIR(status.st_mode) and stat.S_ISDIR(was.st_mode):
                        todo.append((found, counterpart, inside))
            for name, was in before.items():
                yield from self._deleted(counterpart, _join(path, name), was)

    def _added(
        self,
        new: int,
        path: str,
        status: os.stat_result,
        todo: list[_Todo],
    ) -> Iterator[Difference]:
        kind = _kind(status)
        if not stat.S_ISDIR(status.st_mode):
            if path not in self.made:
                yield Difference(path, ADDED, kind, status.st_size)
        elif path in self.made:
            todo.append((path, None, None))
        else:
            size, entries = self._measure(new, path)
            yield Difference(path, ADDED, kind, size, entries)

    def _deleted(self, old: int | None, path: str, was: os.stat_result) -> Iterator[Difference]:
        todo = [(path, was)] if old is not None else []
        while todo and old is not None:
            path, was = todo.pop()
            if self.skip(path):
                continue
            if not stat.S_ISDIR(was.st_mode):
                if path not in self.made:
                    yield Difference(path, DELETED, _kind(was), was.st_size)
            elif path in self.made:
                inside = self._list(old, path)
                todo += [(_join(path, n), status) for n, status in inside.items() if n != "."]
            else:
                size, entries = self._measure(old, path)
                yield Difference(path, DELETED, _kind(was), size, entries)

    def _measure(self, root: int, top: str) -> tuple[int, int]:
        """Bytes and number of the entries below *top*, without skipped ones."""
        size = entries = 0
        todo = [top]
        while todo:
            path = todo.pop()
            for name, status in self._list(root, path).items():
                found = _join(path, name)
                if name == "." or self.skip(found):
                    continue
                if stat.S_ISDIR(status.st_mode):
                    todo.append(found)
                elif stat.S_ISREG(status.st_mode):
                    size += status.st_size
                if found not in self.made:
                    entries += 1
        return size, entries

    def _changed(
        self, old: int, new: int, path: str, was: os.stat_result, now: os.stat_result
    ) -> Iterator[Difference]:
        if self.related and was.st_ino == now.st_ino and was.st_ctime_ns == now.st_ctime_ns:
            return
        what = list(self._what(old, new, path, was, now))
        if what:
            size = now.st_size if stat.S_ISREG(now.st_mode) else 0
            yield Difference(path, CHANGED, _kind(now), size, 0, tuple(what))

    def _what(
        self, old: int, new: int, path: str, was: os.stat_result, now: os.stat_result
    ) -> Iterator[str]:
        kind = stat.S_IFMT(now.st_mode)
        if stat.S_IFMT(was.st_mode) != kind:
            yield "kind"
            return
        if kind == stat.S_IFREG and not self._same_content(old, new, path, was, now):
            yield "content"
        elif kind == stat.S_IFLNK and self._target(old, path) != self._target(new, path):
            yield "target"
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and was.st_rdev != now.st_rdev:
            yield "kind"
        if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
            yield "owner"
        if stat.S_IMODE(was.st_mode) != stat.S_IMODE(now.st_mode):
            yield "mode"
        if (self.related or self.content) and kind in (stat.S_IFREG, stat.S_IFDIR):
            if self._attributes(old, path) != self._attributes(new, path):
                yield "attributes"

    def _same_content(
        self, old: int, new: int, path: str, was: os.stat_result, now: os.stat_result
    ) -> bool:
        if was.st_size != now.st_size:
            return False
        # Related, and the ctimes differ (see _changed): the file was changed, although its mtime
        # is equal.
        if was.st_mtime_ns == now.st_mtime_ns and not (self.content or self.related):
            return True
        try:
            one = paths.open_regular(old, path)
            try:
                other = paths.open_regular(new, path)
                try:
                    return same_content(one, other, now.st_size, self.meter, path)
                finally:
                    os.close(other)
            finally:
                os.close(one)
        except OSError as error:
            self._complain(path, error)
            return False
        except OutOfBounds as reason:
            if reason.bound != "bytes_read":
                raise
            self.problems.append(f"{path}: not compared: {reason.reason}")
            return False

    def _target(self, root: int, path: str) -> str | None:
        head, name = os.path.split(path)
        try:
            with opened(root, head, _DIRECTORY) as parent:
                return os.readlink(name, dir_fd=parent)
        except OSError as error:
            self._complain(path, error)
            return None

    def _attributes(self, root: int, path: str) -> dict[str, bytes]:
        try:
            with opened(root, path, os.O_PATH | os.O_NOFOLLOW) as fd:
                # Through /proc, so that the file itself is not opened.
                where = fd_path(fd)
                # The marks on a root's own directory are ours, and differ by design.
                names = [n for n in os.listxattr(where) if not n.startswith("trusted.")]
                return {name: os.getxattr(where, name) for name in names}
        except OSError as error:
            self._complain(path, error)
            return {}

    def _alike(
        self, old: int | None, new: int, path: str, changed_since: Callable[[str, int], bool] | None
    ) -> frozenset[str]:
        """Names in the directory *path* whose entries cannot differ, found by reading only the
        directories: most entries are unchanged, and a stat of each takes long.

        Names of directories are never among them: a subvolume's number is not an inode number.
        """
        if old is None or changed_since is None:
            return frozenset()
        try:
            with opened(old, path, _DIRECTORY) as one, opened(new, path, _DIRECTORY) as other:
                before, after = _inodes(one), _inodes(other)
        except OSError:
            return frozenset()
        return frozenset(
            name
            for name, inode in after.items()
            if before.get(name) == inode and not changed_since(_join(path, name), inode)
        )

    def _list(
        self, root: int, path: str, without: Container[str] = frozenset()
    ) -> dict[str, os.stat_result]:
        """The entries of the directory *path*, and itself as ``.``; empty if it was removed."""
        found = {}
        try:
            with opened(root, path, _DIRECTORY) as directory:
                found["."] = os.fstat(directory)
                self.meter.check_time(path)
                for name in paths.names(directory):
                    self.meter.count_entry(path)
                    if name in without:
                        continue
                    try:
                        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    except FileNotFoundError:  # the root is alive
                        continue
                    if name != _SNAPSHOTS or status.st_ino != _SNAPSHOTS_INODE:
                        found[name] = status
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._complain(path, error)
        return found

    def _complain(self, path: str, error: OSError) -> None:
        self.problems.append(f"{path}: {error.strerror}")


# With snapdir=visible a dataset shows its snapshots in this directory (ZFSCTL_INO_ROOT in
# OpenZFS's include/os/linux/zfs/sys/zfs_ctldir.h); it is not a part of the root.
_SNAPSHOTS, _SNAPSHOTS_INODE = ".zfs", 0x0000FFFFFFFFFFFF

_Todo = tuple[str, int | None, Callable[[str, int], bool] | None]


@contextmanager
def opened(root: int, path: str, flags: int = _FILE) -> Iterator[int]:
    """The entry *path* below the open *root*, never by a symlink. Raises ``OSError``."""
    fd = paths.open_beneath(root, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _inodes(directory: int) -> dict[str, int]:
    """Names and inode numbers of all but directories in the open *directory*."""
    with paths.entries(directory) as found:
        return {e.name: e.inode() for e in found if not e.is_dir(follow_symlinks=False)}


def _join(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "special")
