"""Modes of the directories above an entry, which must agree in the store and in the home.

A file can be private only because of its directory (``~/.ssh``, ``~/.gnupg``). The file is also
reachable through the store, whose directories must then be as restrictive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ephemeroot.config.syntax import clean
from ephemeroot.home.model import Entry
from ephemeroot.linux import attributes


@dataclass(frozen=True, slots=True)
class Exposure:
    """The directory ``path`` grants more than ``like``, its counterpart on the other side.

    ``mode`` and ``like_mode`` are permission bits.
    """

    path: str
    mode: int
    like: str
    like_mode: int

    @property
    def right_mode(self) -> int:
        """``mode`` restricted to the permissions of ``like``."""
        return self.mode & ~_extra(self.mode, self.like_mode)

    def describe(self) -> str:
        """The problem in one line."""
        return (
            f"{self.path} (mode {self.mode:04o}) grants access to more users than {self.like} "
            f"(mode {self.like_mode:04o})"
        )


def counterparts(entry: Entry, home: str) -> Iterator[tuple[str, str]]:
    """Pairs of directories in the store and in the *home* above *entry* that correspond to each
    other, from the deepest to the highest. For a directory, the first is the entry itself.

    A prefix directory that ``remove-prefix-directory`` leaves out has no counterpart.
    """
    source, target = entry.source, entry.target
    if not entry.is_directory:
        source, target = os.path.dirname(source), os.path.dirname(target)
    while (
        source != entry.store
        and clean.is_below(source, entry.store)
        and target != home
        and clean.is_below(target, home)
        and os.path.basename(source) == os.path.basename(target)
    ):
        yield source, target
        source, target = os.path.dirname(source), os.path.dirname(target)


def exposures(entries: Iterable[Entry], home: str) -> list[Exposure]:
    """Existing directories that grant more than their counterpart, in the order of their paths.

    Changes nothing and raises nothing; unreadable directories are left out.
    """
    found: dict[str, Exposure] = {}
    for entry in entries:
        for one, other in counterparts(entry, home):
            if other == entry.target:
                continue  # mounts and links show the store's directory itself
            first, second = _Grant.of(one), _Grant.of(other)
            if first is None or second is None:
                continue
            if _extra(first.beyond(second), second.own):
                found[one] = Exposure(one, first.mode, other, second.own)
            if _extra(second.beyond(first), first.own):
                found[other] = Exposure(other, second.mode, one, first.own)
    return [found[path] for path in sorted(found)]


def _extra(mode: int, like: int) -> int:
    """The bits for group and others that only *mode* has."""
    return mode & ~like & 0o077


@dataclass(frozen=True, slots=True)
class _Grant:
    """The permissions of a directory: its ``mode``, the same without permissions that only its
    ``acl`` grants to named users and groups (``own``), and that list.
    """

    mode: int
    own: int
    acl: bytes

    @classmethod
    def of(cls, path: str) -> _Grant | None:
        """The permissions of *path*; ``None`` if it is not a readable directory."""
        try:
            found = os.stat(path).st_mode
            if not stat.S_ISDIR(found):
                return None
            own = attributes.own_mode(path)
            return cls(stat.S_IMODE(found), own, attributes.access_list(path))
        except OSError:
            return None

    def beyond(self, other: _Grant) -> int:
        """The mode to compare with *other*: named users of an ACL are ignored if both ACLs are
        equal.
        """
        return self.own if self.acl == other.acl else self.mode
