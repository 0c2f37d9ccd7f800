"""Making one tree like another, where both may change meanwhile and users may have made them.

Everything goes through open directories and nothing is followed. What is alike already is not
touched, so that a second run costs a walk: it is how a copy is verified, caught up with, and
completed after an interruption.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable

from ephemeroot.linux import attributes, paths, removal
from ephemeroot.linux.copying import Copier

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NEW = ".ephemeroot-new-"


class Mirror:
    """Makes targets like their sources.

    ``excluded`` are paths, relative to what is mirrored, that are left alone with all below
    them, as are the directories that lead to them, but for what else is in those. With
    ``delete`` what the source does not have goes. With ``content`` files that look alike
    (size, time, owner, mode, attributes) are compared byte by byte. What was changed in the
    target after ``since`` (nanoseconds, 0: no such time) is newer than any source: it stays
    and is listed in ``kept``.

    ``changed`` and ``removed`` list paths as they are done, ``copier`` counts bytes.
    """

    def __init__(
        self,
        *,
        excluded: Iterable[str] = (),
        delete: bool = True,
        content: bool = False,
        since: int = 0,
        copier: Copier | None = None,
    ) -> None:
        self.excluded = frozenset(path.strip("/") for path in excluded)
        self.leading = {
            path[:n] for path in self.excluded for n, char in enumerate(path) if char == "/"
        } | ({""} if self.excluded else set())
        self.delete = delete
        self.content = content
        self.since = since
        self.copier = Copier() if copier is None else copier
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.kept: list[str] = []

    def tree(self, source: int, target: int) -> None:
        """Make the open directory *target* like the open directory *source*."""
        self._tree(source, target, "")

    def file(self, source: int, target: int, name: str) -> None:
        """Fill the open file *target* with what is in the open file *source*, in place: it
        may be a mount point, which cannot be replaced. *name* is for the lists.
        """
        if self._is_alike(source, target):
            return
        if self._is_newer(os.fstat(target)):
            self.kept.append(name)
            return
        os.ftruncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        position = 0
        while sent := os.sendfile(target, source, position, 1 << 26):
            position += sent
            self.copier.meter.copied += sent
        _give_facts(source, target)
        self.changed.append(name)

    def _tree(self, source: int, target: int, path: str) -> None:
        names = set(os.listdir(source))
        for name in sorted(names):
            self._entry(source, target, name, f"{path}/{name}".lstrip("/"))
        for name in sorted(set(os.listdir(target)) - names):
            # What an interrupted run left under our temporary names goes in any case.
            if self.delete or name.startswith(_NEW):
                self._remove(target, name, f"{path}/{name}".lstrip("/"))
        if not _same_facts(source, target):
            _give_facts(source, target)

    def _entry(self, source: int, target: int, name: str, path: str) -> None:
        if path in self.excluded:
            return
        try:
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            return  # gone since it was listed; the next run sees it
        if stat.S_ISSOCK(status.st_mode):
            return
        try:
            if stat.S_ISDIR(status.st_mode):
                self._directory(source, target, name, path)
            elif not self._is_there(source, target, name, status):
                self._replace(source, target, name, path)
        except FileNotFoundError:
            return
        except OSError as error:
            # Another kind of thing by now: for the next run.
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EBUSY):
                raise

    def _directory(self, source: int, target: int, name: str, path: str) -> None:
        there = _lstat(target, name)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            self._remove(target, name, path)
            there = _lstat(target, name)
            if there is not None:
                return  # newer, and kept
        if there is None:
            if path not in self.leading:
                self._replace(source, target, name, path)
                return
            os.mkdir(name, 0o700, dir_fd=target)
            self.changed.append(path)
        old = os.open(name, _READ, dir_fd=source)
        try:
            new = os.open(name, _READ, dir_fd=target)
            try:
                self._tree(old, new, path)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _replace(self, source: int, target: int, name: str, path: str) -> None:
        """Copy the entry beside, and give the copy the name: there is never half of it."""
        there = _lstat(target, name)
        if there is not None and self._is_newer(there):
            self.kept.append(path)
            return
        temporary = f"{_NEW}{os.urandom(8).hex()}"
        try:
            self.copier.copy(source, name, target, temporary)
            if there is not None and stat.S_ISDIR(there.st_mode):
                removal.remove(target, name)
            os.rename(temporary, name, src_dir_fd=target, dst_dir_fd=target)
        except BaseException:
            removal.remove(target, temporary)
            raise
        self.changed.append(path)

    def _remove(self, target: int, name: str, path: str) -> None:
        if path in self.excluded or path in self.leading:
            return
        there = _lstat(target, name)
        if there is None:
            return
        if self._is_newer(there):
            self.kept.append(path)
            return
        removal.remove(target, name)
        self.removed.append(path)

    def _is_newer(self, status: os.stat_result) -> bool:
        return bool(self.since) and status.st_ctime_ns > self.since

    def _is_there(self, source: int, target: int, name: str, status: os.stat_result) -> bool:
        """Whether the target has the same under that name."""
        there = _lstat(target, name)
        if there is None or stat.S_IFMT(there.st_mode) != stat.S_IFMT(status.st_mode):
            return False
        if (there.st_uid, there.st_gid) != (status.st_uid, status.st_gid):
            return False
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=source) == os.readlink(name, dir_fd=target)
        if not stat.S_ISREG(status.st_mode):
            return (there.st_mode, there.st_rdev) == (status.st_mode, status.st_rdev)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        old = os.open(name, flags, dir_fd=source)
        try:
            new = os.open(name, flags, dir_fd=target)
            try:
                return self._is_alike(old, new)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _is_alike(self, old: int, new: int) -> bool:
        one, other = os.fstat(old), os.fstat(new)
        if (one.st_size, one.st_mtime_ns) != (other.st_size, other.st_mtime_ns):
            return False
        if not _same_facts(old, new):
            return False
        return not self.content or _same_content(old, new)


def settle(run: Callable[[], Mirror], passes: int = 3) -> list[str]:
    """Run until a pass changes nothing, at most *passes* times; what changed in the last one
    is what somebody keeps writing to.
    """
    last: list[str] = []
    for _ in range(passes):
        done = run()
        last = [*done.changed, *done.removed]
        if not last:
            break
    return last


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _same_facts(old: int, new: int) -> bool:
    one, other = os.fstat(old), os.fstat(new)
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return False
    if stat.S_ISDIR(one.st_mode) and one.st_mtime_ns != other.st_mtime_ns:
        return False
    return _attributes(old) == _attributes(new)


def _give_facts(old: int, new: int) -> None:
    for name in set(_attributes(new)) - set(_attributes(old)):
        os.removexattr(new, name)
    attributes.copy(old, new)


def _attributes(fd: int) -> dict[str, bytes]:
    # Those that a filesystem keeps to itself are never copied.
    return {
        name: os.getxattr(fd, name)
        for name in os.listxattr(fd)
        if not name.startswith("btrfs.") and name != "security.selinux"
    }


def _same_content(old: int, new: int) -> bool:
    position = 0
    while True:
        part = os.pread(old, 1 << 20, position)
        if part != os.pread(new, 1 << 20, position):
            return False
        if not part:
            return True
        position += len(part)


def open_directory(directory: int, path: str) -> int:
    """Open the directory *path* below *directory* for reading, never by a symlink."""
    return paths.open_beneath(directory, path, os.O_RDONLY | os.O_DIRECTORY)
