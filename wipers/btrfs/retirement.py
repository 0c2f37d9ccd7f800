"""How a retired root gets from its temporary name to the one in old-roots."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import immutable, paths
from ephemeroot.wipers.btrfs import directories, subvolumes
from ephemeroot.wipers.retire import into_history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.history import SubvolumeHistory
    from ephemeroot.wipers.btrfs.leftovers import Leftover


def retire(history: SubvolumeHistory, directory: int, leftover: Leftover) -> str:
    """Move the retired root *leftover* in the open *directory* to its name in old-roots.

    Returns that name, which has another number if it was taken meanwhile. A
    read-only one cannot change its directory (EROFS), so it is made writable for
    that move, and read-only again while it still has the name that says so. Subvolumes of
    ``btrfs receive`` stay in place: making one writable would end its relation to the
    received one.
    """
    text = leftover.text
    fd = directories.subvolume(directory, text)
    if fd < 0:
        raise EphemerootError(f"{text} is not a subvolume")
    try:
        if subvolumes.stays_in_place(fd, subvolumes.identify(fd)):
            return str(leftover.name)
        if not leftover.read_only:
            return into_history(directory, text, history.old, leftover.name, history.free)
        if directory != history.old:
            if subvolumes.is_read_only(fd):
                subvolumes.set_read_only(fd, False)
            flags = paths.RENAME_NOREPLACE
            immutable.rename(directory, text, history.old, text, how=flags)
        if not subvolumes.is_read_only(fd):
            subvolumes.set_read_only(fd, True)
        return into_history(history.old, text, history.old, leftover.name, history.free)
    finally:
        os.close(fd)
