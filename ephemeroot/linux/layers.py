"""The two layers of an overlay mount, for entries that the overlay does not show.

A container's storage in the lower layer has whiteouts and opaque directories of its own
(Documentation/filesystems/overlayfs.rst). The overlay interprets them as its own: it hides the
whiteouts but lists some of them, and shows opaque directories without their mark.
"""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import paths

OPAQUE = "trusted.overlay.opaque"
"""The attribute of an opaque directory, which hides the one in the lower layer; its value is ``y``.
"""

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Layers:
    """The open directories *upper* and *lower* of a mounted overlay; names are relative to *path*
    in it.
    """

    __slots__ = ("_looked", "lower", "path", "upper")

    def __init__(self, upper: int, lower: int, path: str = "") -> None:
        self.upper = upper
        self.lower = lower
        self.path = path.strip("/")
        self._looked = ("", False)

    def at(self, path: str) -> Layers:
        """The same layers, with names relative to *path*."""
        return Layers(self.upper, self.lower, path)

    def from_lower(self, name: str) -> os.stat_result | None:
        """The status of *name* in the lower layer, if the upper one has no entry for it."""
        place = self._place(name)
        below = _status(self.lower, place)
        if below is None or _status(self.upper, place) is not None:
            return None
        return None if self._is_replaced(place.rpartition("/")[0]) else below

    def whiteouts(self, name: str) -> list[str]:
        """The whiteouts in the lower directory *name* that the upper one does not replace."""
        place = self._place(name)
        if self._is_replaced(place):
            return []
        try:
            fd = paths.open_beneath(self.lower, place or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            return []
        try:
            found = {one: self.from_lower(f"{name}/{one}") for one in paths.names(fd)}
            return [one for one, status in found.items() if status and is_whiteout(status)]
        finally:
            os.close(fd)

    def is_opaque(self, name: str) -> bool:
        """Whether the lower directory *name* is opaque, unless the upper one replaces it."""
        place = self._place(name)
        return self._is_opaque(self.lower, place) and not self._is_replaced(place)

    def open_lower_parent(self, name: str) -> tuple[int, str]:
        """The open directory of the lower layer that contains *name*, and its last component."""
        head, _, last = self._place(name).rpartition("/")
        return paths.open_beneath(self.lower, head or ".", os.O_RDONLY | os.O_DIRECTORY), last

    def _place(self, name: str) -> str:
        return f"{self.path}/{name}".strip("/")

    def _is_replaced(self, place: str) -> bool:
        """Whether the upper layer hides all of the lower directory *place*: there or above it has a
        directory that is opaque, or another kind of file.
        """
        if self._looked[0] != place:
            self._looked = (place, self._find_replaced(place))
        return self._looked[1]

    def _find_replaced(self, place: str) -> bool:
        above = ""
        for name in place.split("/") if place else ():
            above = f"{above}/{name}".strip("/")
            status = _status(self.upper, above)
            if status is None:
                return False
            if not stat.S_ISDIR(status.st_mode) or self._is_opaque(self.upper, above):
                return True
        return False

    def _is_opaque(self, layer: int, place: str) -> bool:
        try:
            fd = paths.open_beneath(layer, place or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            return False
        try:
            return os.getxattr(fd, OPAQUE) == b"y"
        except OSError:
            return False
        finally:
            os.close(fd)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether the entry of a layer is a whiteout."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _status(layer: int, place: str) -> os.stat_result | None:
    """The status of *place* in the open *layer*; ``None`` if it is missing."""
    head, _, name = place.rpartition("/")
    try:
        parent = paths.open_beneath(layer, head or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            return os.stat(name or ".", dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        return None
