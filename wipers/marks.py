"""The mark on a root that we made: ``new`` until a boot of it was complete, then ``lived``.

An extended attribute on the subvolume's own directory: it moves with the subvolume,
can be read wherever that is, and only root can set it. It names the subvolume's UUID,
so that a snapshot, which copies it, does not have it.
"""

from __future__ import annotations

import errno
import os

from ephemeroot.wipers.btrfs import subvolumes

NEW = "new"
LIVED = "lived"
UNMARKED = ""

_STATE = "trusted.ephemeroot.state"
_MADE = "trusted.ephemeroot.made"  # where the filesystem does not know when
PREFIX = "trusted.ephemeroot."

# On old-roots itself: the latest time of a synchronised clock, and which root was first.
_SEEN = "trusted.ephemeroot.seen"
_FIRST = "trusted.ephemeroot.first"


def state(fd: int, uuid: str) -> str:
    """``NEW``, ``LIVED`` or ``UNMARKED`` for the open subvolume *fd* with this *uuid*."""
    word, _, owner = _get(fd, _STATE).partition(" ")
    return word if owner == uuid and word in (NEW, LIVED) else UNMARKED


def set_state(fd: int, uuid: str, word: str) -> None:
    """Mark the open subvolume *fd* with this *uuid* as ``NEW`` or ``LIVED``."""
    os.setxattr(fd, _STATE, f"{word} {uuid}".encode())


def made(fd: int) -> float | None:
    """When the open root *fd* was made, in seconds since 1970, if ``set_made`` said so."""
    text = _get(fd, _MADE)
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def set_made(fd: int, now: float) -> None:
    """Record that the open root *fd* was made *now*."""
    os.setxattr(fd, _MADE, str(int(now)).encode())


def mark_lived(path: str) -> bool:
    """Record that the root mounted at *path* was booted to the end.

    Returns False if it carries no mark of ours: nobody wiped it, nothing to record.
    Raises ``OSError``, for one on a filesystem that is read-only.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not subvolumes.is_subvolume(fd) or not _get(fd, _STATE):
            return False
        uuid = subvolumes.identify(fd).uuid
        found = state(fd, uuid)
        if found == NEW:
            set_state(fd, uuid, LIVED)
            os.fsync(fd)  # a power cut within the next seconds must not undo it
        return found != UNMARKED
    finally:
        os.close(fd)


def seen(old_roots: int) -> int:
    """The latest time, in seconds since 1970, that a synchronised clock showed; else 0."""
    text = _get(old_roots, _SEEN)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0


def set_seen(old_roots: int, now: int) -> None:
    """Record what a synchronised clock shows *now*."""
    os.setxattr(old_roots, _SEEN, str(now).encode())


def first(old_roots: int) -> str:
    """The name under which the first root was retired here, or ``""``."""
    return _get(old_roots, _FIRST)


def set_first(old_roots: int, name: str) -> None:
    """Record that the root called *name* was the first."""
    os.setxattr(old_roots, _FIRST, name.encode())


def _get(fd: int, attribute: str) -> str:
    try:
        return os.getxattr(fd, attribute).decode("ascii", "replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return ""
        raise
