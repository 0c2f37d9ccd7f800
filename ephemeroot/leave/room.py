"""Whether the root has space for the persistent paths."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.errors import Refused
from ephemeroot.leave import returning
from ephemeroot.leave.leaving import Leaving
from ephemeroot.linux import bounds, paths, walk
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.plan import seeds


def require(leaving: Leaving, root: Path) -> None:
    """Raise ``Refused`` if the root lacks space for the files that are copied without sharing
    their extents.
    """
    wanted = 0
    bare = returning.bare_root(root)
    try:
        for item in leaving.items():
            store = root / item.operation.store.lstrip("/") / item.operation.source
            if store.exists() and not seeds.share(root / item.path.lstrip("/"), store):
                below = {f"{store}/{path}" for path in leaving.below(item)}
                wanted += seeds.measure(store, below)[0] - _copied(store, bare, item.path, below)
    finally:
        os.close(bare)
    free = shutil.disk_usage(root).free
    if wanted > free:
        raise Refused(
            f"cannot copy {amounts.size(wanted)} into the root: only {amounts.size(free)} are free",
            "free space in the root, or move large files out of the stores",
        )


def _copied(store: Path, bare: int, path: str, below: set[str]) -> int:
    """Bytes under *store* that an earlier run has copied to *path* in the *bare* root."""
    size = 0
    seen: set[tuple[int, int]] = set()
    inside = {os.path.relpath(one, store) for one in below}
    top = there = -1
    try:
        top = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        there = paths.open_beneath(bare, path)
        for name, one in walk.below(top, ".", Meter(bounds.attended()), inside):
            if stat.S_ISREG(one.st_mode) and _is_copied(there, name, one):
                size += seeds.disk_size(one, seen)
    except (OSError, OutOfBounds):  # a file, not copied yet, or beyond the bounds
        pass
    finally:
        for fd in (top, there):
            if fd >= 0:
                os.close(fd)
    return size


def _is_copied(there: int, name: str, one: os.stat_result) -> bool:
    try:
        fd = paths.open_beneath(there, name, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        other = os.fstat(fd)
    finally:
        os.close(fd)
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
