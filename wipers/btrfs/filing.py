"""How a retired root gets from its temporary name to the one in old-roots, and which never do."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import paths
from ephemeroot.wipers.btrfs import directories, subvolumes
from ephemeroot.wipers.oldroot import RETIRED, OldRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.history import SubvolumeHistory
    from ephemeroot.wipers.btrfs.leftovers import Leftover
    from ephemeroot.wipers.names import Name


class InPlace(OldRoot):
    """An old root that stays beside the root, under the temporary name *leftover*."""

    __slots__ = ("leftover",)

    def __init__(self, leftover: Leftover, serial: int) -> None:
        super().__init__(leftover.text, RETIRED, serial, leftover.name)
        self.leftover = leftover


def file(history: SubvolumeHistory, directory: int, leftover: Leftover) -> str:
    """Move the retired root *leftover* in the open *directory* to its name in old-roots.

    Returns that name, which has another number if it was taken meanwhile. A
    read-only one cannot change its directory (EROFS), so it is made writable for
    that move, and read-only again while it still has the name that says so. What
    ``btrfs receive`` made stays in place: writable once, it would no longer be
    what was received.
    """
    text = leftover.text
    fd = directories.subvolume(directory, text)
    if fd < 0:
        raise EphemerootError(f"{text} is no subvolume")
    try:
        if stays_in_place(fd, subvolumes.identify(fd)):
            return str(leftover.name)
        if not leftover.read_only:
            return rename(history, directory, text, leftover.name)
        if directory != history.old:
            if subvolumes.is_read_only(fd):
                subvolumes.set_read_only(fd, False)
            paths.rename(directory, text, history.old, text, flags=paths.RENAME_NOREPLACE)
        if not subvolumes.is_read_only(fd):
            subvolumes.set_read_only(fd, True)
        return rename(history, history.old, text, leftover.name)
    finally:
        os.close(fd)


def rename(history: SubvolumeHistory, directory: int, text: str, name: Name) -> str:
    """Give *text* in the open *directory* that *name* in old-roots, or the next that is free."""
    while True:
        try:
            paths.rename(directory, text, history.old, str(name), flags=paths.RENAME_NOREPLACE)
            return str(name)
        except FileExistsError:
            name = history.free(name.at((name.time, name.number + 1)))


def stays_in_place(fd: int, identity: subvolumes.Identity) -> bool:
    """Whether the open subvolume must never be made writable, not even for a moment."""
    return identity.received and subvolumes.is_read_only(fd)


def in_place(history: SubvolumeHistory) -> list[InPlace]:
    """The old roots that stay beside the root, under their temporary names."""
    found = []
    for directory, leftover in history.leftovers():
        if directory != history.parent:
            continue
        fd = directories.subvolume(directory, leftover.text)
        if fd < 0:
            continue
        try:
            identity = subvolumes.identify(fd)
            if identity.uuid == leftover.uuid and stays_in_place(fd, identity):
                found.append(InPlace(leftover, identity.id))
        finally:
            os.close(fd)
    return found
