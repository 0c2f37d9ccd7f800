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

    __slots__ = ("_above", "_names", "fd")

    def __init__(self, top: int, name: str) -> None:
        self._names: list[str] = []
        self._above: list[tuple[int, int]] = []
        self.fd = os.dup(top)
        try:
            self.enter(name)
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

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
