"""The paths that the next boot would seed into the stores, and whether it can.

The boot itself decides by the files it finds (``hooks/store/seed.py``). This module predicts that,
so that the administrator learns of paths that are too large before the boot keeps the root.
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

    ``size`` is in bytes; ``shared``: the store can share the extents (reflink). ``refusal`` is the
    reason why the boot could not seed the path, empty if it can.
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
        how = ", shared with the root" if self.shared else ""
        return f"{self.path}: the next boot seeds {amounts.size(self.size)} into {self.store}{how}"


def adopt_line(seeds: list[Seed]) -> str:
    """The command that copies the paths into the store now, if the boot cannot seed them."""
    return "ephemeroot adopt " + " ".join(shlex.quote(seed.path) for seed in seeds)


def foresee(plan: Plan, root: Path, before: Collection[str] = ()) -> list[Seed]:
    """The seeds of the next boot of *plan* on the machine whose root is *root*, in its present
    state.

    *before* are the paths that persist already. A directory that the store has only as the parent
    of one of them would not be seeded.
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
            refusal = f"has {entries:,} entries, and a boot copies at most {limits.ENTRIES:,}"
        elif not shared and size > plan.seed_limit:
            limit = amounts.size(plan.seed_limit)
            refusal = f"has {amounts.size(size)}, and a boot copies at most {limit} (seed-limit)"
        found.append(Seed(operation.path, operation.store, size, entries, shared, refusal))
    return found


def _is_parent(store: Path, source: str) -> bool:
    """Whether the store has *source* only as the parent of another path, so that it is seeded."""
    try:
        fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return source in Parents(fd)
    finally:
        os.close(fd)


def _hides(operation: Operation, live: Path, store: Path, before: Collection[str]) -> bool:
    """Whether the store has the directory only as the parent of persistent paths, and the root has
    further entries in it.
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
    """Whether the wiper keeps no previous root to seed from."""
    wipe = plan.root_wipe()
    try:
        return wipe is not None and wipe.load().EPHEMERAL
    except Damaged:
        return False


def measure(path: Path, without: Collection[str] = frozenset()) -> tuple[int, int]:
    """Bytes that a copy of *path* would write, and the number of entries under it. Holes, the paths
    in *without* and other mounts are left out; a file with several names is added once.

    If the tree exceeds the bounds of a verb (``bounds.attended``), the sums up to that point.
    """
    size = entries = 0
    seen: set[tuple[int, int]] = set()
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return disk_size(status, seen), 0
    inside = {os.path.relpath(one, path) for one in without if one.startswith(f"{path}/")}
    try:
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # deleted meanwhile
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
    """Bytes of a file without its holes; zero if it is in *seen* under another name."""
    if status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return min(status.st_size, status.st_blocks * 512)


def share(live: Path, store: Path, mounts: list[Mount] | None = None) -> bool:
    """Whether both are on one btrfs, where extents are shared instead of copied."""
    mounts = mountinfo.mounts() if mounts is None else mounts
    one, other = covering(live, mounts), covering(store, mounts)
    if one is None or other is None:
        return False
    return one.fstype == other.fstype == "btrfs" and one.major_minor == other.major_minor


def covering(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that *path* is on; a link at its end is not followed."""
    return mountinfo.covering(os.path.join(os.path.realpath(path.parent), path.name), mounts)
