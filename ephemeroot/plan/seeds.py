"""What the next boot would have to copy into the stores, and whether it can.

The boot itself decides by what it finds (``hooks/store/seed.py``); this is the look ahead, so that
nobody learns at boot that the root was kept because something is too large.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ephemeroot import amounts
from ephemeroot.config.declared import OURS
from ephemeroot.errors import Damaged
from ephemeroot.hooks import limits
from ephemeroot.hooks.operation import Operation, Seeded
from ephemeroot.hooks.operations.directories import Directory
from ephemeroot.hooks.parents import Parents
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import bounds, mountinfo, paths, walk
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.mountinfo import Mount

_ONLY_PARENT = (
    "the store has it only as the parent of other declared paths; its other content would be hidden"
)


@dataclass(frozen=True, slots=True)
class Seed:
    """A declared path that the store lacks and the present root has.

    ``size`` is in bytes; ``shared`` whether the store can share them (reflink), which costs
    nothing. ``refusal`` says why the boot could not take it over, empty if it can.
    """

    path: str
    store: str
    size: int
    entries: int
    shared: bool
    refusal: str = ""

    def describe(self) -> str:
        """One line."""
        if self.refusal:
            return f"{self.path}: {self.refusal}"
        how = "shared with the root" if self.shared else "copied"
        return f"{self.path}: {amounts.size(self.size)}, {how} into {self.store} by the next boot"


def adopt_line(seeds: list[Seed]) -> str:
    """The command that takes over now what the boot cannot."""
    return "ephemeroot adopt " + " ".join(shlex.quote(seed.path) for seed in seeds)


def foresee(plan: Plan, root: Path, before: Collection[str] = ()) -> list[Seed]:
    """The seeds of the next boot of *plan* on the machine whose root is *root*, as it is now.

    *before* are the paths that persist already: of a directory that the store has only
    because one of those is in it, nothing else would be taken over.
    """
    mounts = mountinfo.mounts()
    bare = _keeps_nothing(plan)
    found = []
    for operation in plan.persist:
        if not isinstance(operation, Seeded) or operation.initial != "previous":
            continue
        store = root / operation.store.lstrip("/")
        live = root / operation.path.lstrip("/")
        if operation.path == OURS:
            continue
        if os.path.lexists(store / operation.source) and not _is_parent(store, operation.source):
            if operation.path not in before and _hides(operation, live, store, before):
                found.append(Seed(operation.path, operation.store, 0, 0, False, _ONLY_PARENT))
            continue
        wanted = stat.S_ISDIR if isinstance(operation, Directory) else stat.S_ISREG
        if not _is(live, wanted):
            continue
        size, entries = measure(live, {mount.point for mount in mounts})
        shared = share(live, store, mounts)
        refusal = ""
        if bare and (entries or size):
            refusal = "a root in memory is lost at shutdown, so it cannot be the source"
        elif entries > limits.ENTRIES:
            refusal = f"{entries:,} names are more than a boot may copy ({limits.ENTRIES:,})"
        elif not shared and size > plan.seed_limit:
            limit = amounts.size(plan.seed_limit)
            refusal = f"{amounts.size(size)} are more than a boot may copy (seed-limit is {limit})"
        found.append(Seed(operation.path, operation.store, size, entries, shared, refusal))
    return found


def _is_parent(store: Path, source: str) -> bool:
    """Whether the store has *source* only because it leads to something: it is seeded."""
    try:
        fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return source in Parents(fd)
    finally:
        os.close(fd)


def _hides(operation: Operation, live: Path, store: Path, before: Collection[str]) -> bool:
    """Whether the store has the directory only as the way to what persisted so far, and the
    root has more in it.
    """
    if not isinstance(operation, Directory):
        return False
    if not any(path.startswith(f"{operation.path}/") for path in before):
        return False
    try:
        return bool(set(paths.names(live)) - set(paths.names(store / operation.source)))
    except OSError:
        return False


def _is(path: Path, wanted: object) -> bool:
    try:
        return callable(wanted) and bool(wanted(path.lstat().st_mode))
    except OSError:
        return False


def _keeps_nothing(plan: Plan) -> bool:
    """Whether the wiper has no previous root to take anything over from."""
    wipe = plan.root_wipe()
    try:
        return wipe is not None and wipe.load().EPHEMERAL
    except Damaged:
        return False


def measure(path: Path, without: Collection[str] = frozenset()) -> tuple[int, int]:
    """Bytes that a copy of *path* would write, and the names below it; holes and the paths in
    *without* do not count, nor does the mount there; a file of several names counts once.

    Of a tree that exceeds the bounds of a verb (``bounds.attended``) what was seen until then.
    """
    size = entries = 0
    seen: set[tuple[int, int]] = set()
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return disk_size(status, seen), 0
    inside = {os.path.relpath(one, path) for one in without if one.startswith(f"{path}/")}
    try:
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # gone meanwhile
        return 0, 0
    try:
        for _, status in walk.below(top, ".", Meter(bounds.attended()), inside):
            entries += 1
            if stat.S_ISREG(status.st_mode):
                size += disk_size(status, seen)
    except (OSError, OutOfBounds):
        pass
    finally:
        os.close(top)
    return size, entries


def disk_size(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    """Bytes of a file without its holes; zero if it is in *seen*, by another of its names."""
    if status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return min(status.st_size, status.st_blocks * 512)


def share(live: Path, store: Path, mounts: list[Mount] | None = None) -> bool:
    """Whether both are on one btrfs: then contents are shared, and nothing is copied."""
    mounts = mountinfo.mounts() if mounts is None else mounts
    one, other = covering(live, mounts), covering(store, mounts)
    if one is None or other is None:
        return False
    return one.fstype == other.fstype == "btrfs" and one.major_minor == other.major_minor


def covering(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that *path* is on; a link at its end is not followed."""
    return mountinfo.covering(os.path.join(os.path.realpath(path.parent), path.name), mounts)
