"""What a base has in the directories that filesystems are mounted on: it must not change.

A file that arrives there was meant for the filesystem: a command has unmounted it, or has gone
around it. It would be in the base, invisible below the mount, and not where it boots.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ephemeroot.errors import Refused
from ephemeroot.linux import bounds, paths, walk
from ephemeroot.linux.bounds import Meter

Listing = dict[str, tuple[int, int, int, int]]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def look(base: int, points: Iterable[str]) -> dict[str, Listing]:
    """What the open subvolume *base* itself has at each of *points*, and below it."""
    return {point: _listing(base, point) for point in points}


def require_same(base: int, before: dict[str, Listing]) -> None:
    """Raise ``Refused`` if the open subvolume *base* has something else there than it had."""
    for point, listed in before.items():
        now = _listing(base, point)
        changed = sorted(name for name in now if listed.get(name) != now[name])
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise Refused(
                f"the command wrote {point}/{changed[0]}{more} into the base, below the mount "
                f"point {point}, not to the filesystem of {point}",
                f"mount {point}, and make sure that the command leaves it mounted ('findmnt "
                f"{point}')",
            )


def _listing(base: int, point: str) -> Listing:
    try:
        fd = paths.open_in_root(base, point, _DIRECTORY)
    except OSError:
        return {}
    found: Listing = {}
    try:
        for name, status in walk.below(fd, ".", Meter(bounds.attended())):
            is_directory = stat.S_ISDIR(status.st_mode)
            content = (0, 0) if is_directory else (status.st_size, status.st_mtime_ns)
            found[name] = (status.st_ino, status.st_mode, *content)
    finally:
        os.close(fd)
    return found
