"""The mark on a root that we made: ``new`` until a boot of it was complete, then ``boot-complete``.

An extended attribute on the root's own directory: it moves with the root, can be read
at any path, and only root can set it. It names its owner, which is the subvolume's UUID
for btrfs, so that a snapshot, which copies it, does not have it.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.linux import values

NEW = "new"
BOOT_COMPLETE = "boot-complete"
UNMARKED = ""
_FIRST_VERSION = "lived"  # the word for BOOT_COMPLETE in marks of version 0.1 and earlier

_STATE = "trusted.ephemeroot.state"
_MADE = "trusted.ephemeroot.made"  # where the filesystem does not know when
_SERIAL = "trusted.ephemeroot.serial"  # where the filesystem does not number what it makes
PREFIX = "trusted.ephemeroot."

# On old-roots itself: the latest time of a synchronised clock, and which root was first,
# and which system it belongs to.
_SEEN = "trusted.ephemeroot.seen"
_FIRST = "trusted.ephemeroot.first"
_SYSTEM = "trusted.ephemeroot.system"


def state(fd: int, owner: str) -> str:
    """``NEW``, ``BOOT_COMPLETE`` or ``UNMARKED``, by the mark of the open root *fd* for *owner*."""
    word, _, named = _get(fd, _STATE).partition(" ")
    return known(word) if named == owner else UNMARKED


def known(word: str) -> str:
    """The state that the *word* of a mark means: ``UNMARKED`` for one that is not ours."""
    if word == _FIRST_VERSION:
        return BOOT_COMPLETE
    return word if word in (NEW, BOOT_COMPLETE) else UNMARKED


def set_state(fd: int, owner: str, word: str) -> None:
    """Mark the open root *fd* as ``NEW`` or ``BOOT_COMPLETE``."""
    os.setxattr(fd, _STATE, f"{word} {owner}".encode())


def owner(fd: int) -> str:
    """The owner that the mark of the open root *fd* names, empty without a mark."""
    return _get(fd, _STATE).partition(" ")[2]


def is_marked(fd: int) -> bool:
    """Whether the open root *fd* has a mark, whatever owner that names."""
    return bool(_get(fd, _STATE))


def mark_boot_complete(fd: int, owner: str) -> bool:
    """Record that the open root *fd* was booted to the end.

    Returns False if it has no mark of Ephemeroot's: it was not made by a wipe. Raises ``OSError``,
    for one on a filesystem that is read-only.
    """
    found = state(fd, owner)
    if found == NEW:
        set_state(fd, owner, BOOT_COMPLETE)
        os.fsync(fd)  # a power cut within the next seconds must not undo it
    return found != UNMARKED


def made(fd: int) -> float | None:
    """When the open root *fd* was made, in seconds since 1970, if ``set_made`` said so."""
    number = values.number(_get(fd, _MADE), 11)
    return None if number is None else float(number)


def set_made(fd: int, now: float) -> None:
    """Record that the open root *fd* was made *now*."""
    os.setxattr(fd, _MADE, str(int(now)).encode())


def identity(fd: int) -> str:
    """What ``set_identity`` has given to the open root *fd*, else empty."""
    return _get(fd, _SERIAL)


def set_identity(fd: int, serial: int) -> str:
    """Give the open root *fd* the number *serial* and an identity that no other root has; return
    that.
    """
    made = f"{serial} {os.urandom(6).hex()}"
    os.setxattr(fd, _SERIAL, made.encode())
    return made


def serial(fd: int) -> int:
    """The number of the open root *fd*, or the last one given in the open directory *fd* of all
    roots; 0 without one.
    """
    return values.number(_get(fd, _SERIAL).partition(" ")[0], 15) or 0


def set_serial(fd: int, number: int) -> None:
    """Record in the open directory *fd* of all roots that *number* is the last one given."""
    os.setxattr(fd, _SERIAL, str(number).encode())


def seen(old_roots: int) -> int:
    """The latest time, in seconds since 1970, that a synchronised clock showed; else 0."""
    return values.number(_get(old_roots, _SEEN), 11) or 0


def set_seen(old_roots: int, now: int) -> None:
    """Record what a synchronised clock shows *now*."""
    os.setxattr(old_roots, _SEEN, str(now).encode())


def first(old_roots: int) -> str:
    """The name under which the first root was retired here, or ``""``."""
    return _get(old_roots, _FIRST)


def set_first(old_roots: int, name: str) -> None:
    """Record that the root called *name* was the first."""
    os.setxattr(old_roots, _FIRST, name.encode())


def system(old_roots: int) -> str:
    """The id of the system whose history this is, empty for a history without an owner."""
    return _get(old_roots, _SYSTEM)


def set_system(old_roots: int, system: str) -> None:
    """Record that the history belongs to the system with this id."""
    os.setxattr(old_roots, _SYSTEM, system.encode())
    os.fsync(old_roots)


def _get(fd: int, attribute: str) -> str:
    try:
        return os.getxattr(fd, attribute).decode("ascii", "replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise
