"""Walking a tree of any depth by descriptors."""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import paths


class Walk:
    """A walk down a tree and up again with one open directory, ``fd``.

    A tree can be deeper than a process may have descriptors, and than Python recurses.
    ``path`` is relative to the open *top*, and begins with the directory *name*. The walk never
    enters a mount and never follows a link. Raises ``OSError``: EXDEV if *name* is a mount point.
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
            raise OSError(errno.EBUSY, "moved away while it was walked", self.path)
        os.close(self.fd)
        self.fd = above
        self._above.pop()
        return self._names.pop()

    def climb(self) -> list[str]:
        """Like ``leave``, and not stopped by a directory that another process moved meanwhile:
        the walk goes on in the innermost directory above it that is still in its place.

        Returns the names of the directories that were left, outermost first: one, or several in
        that case. The first directory of the walk is always found again, and never left.
        """
        if self.depth < 2:
            raise ValueError("the first directory is not left")
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


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
