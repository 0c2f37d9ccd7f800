"""Walking a tree of any depth by descriptors."""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ephemeroot.linux.bounds import Meter


class Walk:
    """A walk down a tree and up again with one open directory, ``fd``.

    A tree may be deeper than the number of descriptors of a process, and than Python's recursion
    limit. ``path`` is relative to the open *top*, and begins with the directory *name*. The walk
    does not enter mounts or follow links. Raises ``OSError``: EXDEV if *name* is a mount point.
    """

    __slots__ = ("_above", "_first", "_names", "fd")

    def __init__(self, top: int, name: str) -> None:
        self._names: list[str] = []
        self._above: list[tuple[int, int]] = []
        self._first = -1
        self.fd = os.dup(top)
        try:
            self.enter(name)
            self._first = os.dup(self.fd)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        return "/".join(self._names)

    @property
    def depth(self) -> int:
        return len(self._names)

    def _step(self, fd: int, name: str) -> None:
        self._above.append(_identity(self.fd))
        self._names.append(name)
        os.close(self.fd)
        self.fd = fd

    def enter(self, name: str) -> None:
        """Enter the directory *name*. Raises ``OSError``: EXDEV if it is a mount point."""
        self._step(paths.open_entry(self.fd, name, os.O_RDONLY | os.O_DIRECTORY), name)

    def leave(self) -> str:
        """Return to the parent directory; return the name of the directory that was left.

        Raises ``OSError`` (EBUSY) if another process moved it meanwhile.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        above = os.open("..", flags, dir_fd=self.fd)
        if _identity(above) != self._above[-1]:
            os.close(above)
            raise OSError(errno.EBUSY, "moved by another process during the walk", self.path)
        os.close(self.fd)
        self.fd = above
        self._above.pop()
        return self._names.pop()

    def climb(self) -> list[str]:
        """Like ``leave``, but continues if another process moved the directory: in the innermost
        directory above it that is still in its place.

        Returns the names of the directories that were left, outermost first: more than one only in
        that case. The first directory of the walk is always found, and never left.
        """
        if self.depth < 2:
            raise ValueError("the first directory is never left")
        try:
            return [self.leave()]
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        fd, depth = os.dup(self._first), 1
        while depth < self.depth - 1:
            try:
                deeper = paths.open_entry(fd, self._names[depth], os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                break
            if _identity(deeper) != self._above[depth + 1]:
                os.close(deeper)
                break
            os.close(fd)
            fd, depth = deeper, depth + 1
        os.close(self.fd)
        self.fd = fd
        left = self._names[depth:]
        del self._names[depth:], self._above[depth:]
        return left

    def close(self) -> None:
        for fd in (self.fd, self._first):
            if fd >= 0:
                os.close(fd)
        self.fd = self._first = -1


def below(
    top: int, name: str, meter: Meter, without: Container[str] = frozenset()
) -> Iterator[tuple[str, os.stat_result]]:
    """The entries under the directory *name* of the open *top*, each with its status, at any depth.

    Paths are relative to *name*; those in *without* are left out with everything under them. Mounts
    are not entered, and unreadable or deleted entries are skipped. Raises ``OSError`` if *name*
    itself cannot be read, and ``OutOfBounds``.
    """
    here = Walk(top, name)
    try:
        left = [_names(here, meter)]
        while left:
            inside = here.path.partition("/")[2]
            if not left[-1]:
                left.pop()
                if left:
                    for _ in here.climb()[1:]:
                        left.pop()
                continue
            entry = left[-1].pop()
            path = f"{inside}/{entry}".lstrip("/")
            if path in without:
                continue
            try:
                status = os.stat(entry, dir_fd=here.fd, follow_symlinks=False)
            except OSError:
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                meter.check_depth(here.depth + 1, path)
                try:
                    here.enter(entry)
                except OSError:
                    continue
                left.append([])
                try:
                    left[-1] = _names(here, meter)
                except OSError:
                    continue
    finally:
        here.close()


def _names(here: Walk, meter: Meter) -> list[str]:
    meter.check_time(here.path)
    names = []
    with paths.entries(here.fd) as found:
        for entry in found:
            meter.count_entry(here.path)
            names.append(entry.name)
    return names


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
