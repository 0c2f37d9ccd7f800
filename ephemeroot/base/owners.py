"""Persistent files whose owner's number belongs to another name in a new base."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator

from ephemeroot.hooks.store.owner_names import Moved, Names, owners
from ephemeroot.linux import paths, walk
from ephemeroot.linux.bounds import Bounds, Meter, OutOfBounds

_MOST = 200_000  # names of one path that are looked at
_SECONDS = 10


def look(live: int, new: int, declared: Iterable[str]) -> list[tuple[str, str]]:
    """A warning and a hint for each of the *declared* paths of the open root *live*, and each owner
    in it, whose number is another name's in the open root *new*.

    Which numbers are is known from the accounts; only then the paths are walked, as far as that
    is quick.
    """
    before, now = Names(live), Names(new)
    moved = {key: one for key, name in before.names.items() if (one := Moved(*key, name, now))}
    if not moved:
        return []
    found = []
    for path in sorted(declared):
        seen: set[tuple[str, int]] = set()
        for status in _statuses(live, path):
            seen.update(owner for owner in owners(status) if owner in moved)
        for key in sorted(seen):
            text = moved[key].describe(path)
            found.append((text, f"after the next boot: {moved[key].hint(path)}"))
    return found


def _statuses(root: int, path: str) -> Iterator[os.stat_result]:
    meter = Meter(Bounds(entries=_MOST, deadline=time.monotonic() + _SECONDS))
    try:
        fd = paths.open_in_root(root, path)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        yield status
        if stat.S_ISDIR(status.st_mode):
            for _, inside in walk.below(fd, ".", meter):
                yield inside
    except (OSError, OutOfBounds):
        return
    finally:
        os.close(fd)
