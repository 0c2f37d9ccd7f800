"""Modes of the directories on the way to an entry: in the store and in the home they agree.

A file can be private only because its directory is (``~/.ssh``, ``~/.gnupg``). The same file is
reachable through the store, whose directories then must not let anybody else in.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ephemeroot.config.syntax import clean
from ephemeroot.home.model import Entry


@dataclass(frozen=True, slots=True)
class Exposure:
    """The directory ``path`` grants more than ``like``, which stands for it on the other side.

    ``mode`` and ``like_mode`` are permission bits.
    """

    path: str
    mode: int
    like: str
    like_mode: int

    @property
    def right_mode(self) -> int:
        """``mode`` without what ``like`` does not grant."""
        return self.mode & ~_extra(self.mode, self.like_mode)

    def describe(self) -> str:
        """The problem, in one line."""
        return (
            f"{self.path} (mode {self.mode:04o}) lets more users in than {self.like} "
            f"(mode {self.like_mode:04o})"
        )


def counterparts(entry: Entry, home: str) -> Iterator[tuple[str, str]]:
    """The directories of the store on the way to *entry* and those of the *home* that they stand
    for, from the deepest to the highest; for a directory, beginning with the entry itself.

    A prefix directory that ``remove-prefix-directory`` leaves out stands for nothing.
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

    Changes nothing and raises nothing; what cannot be looked at is left out.
    """
    found: dict[str, Exposure] = {}
    for entry in entries:
        for one, other in counterparts(entry, home):
            if other == entry.target:
                continue  # a mount or a link there shows the store's directory itself
            mode, like_mode = _mode(one), _mode(other)
            if mode is None or like_mode is None:
                continue
            if _extra(mode, like_mode):
                found[one] = Exposure(one, mode, other, like_mode)
            if _extra(like_mode, mode):
                found[other] = Exposure(other, like_mode, one, mode)
    return [found[path] for path in sorted(found)]


def _extra(mode: int, like: int) -> int:
    """The bits for group and others that only *mode* has."""
    return mode & ~like & 0o077


def _mode(path: str) -> int | None:
    try:
        found = os.stat(path).st_mode
    except OSError:
        return None
    return stat.S_IMODE(found) if stat.S_ISDIR(found) else None
