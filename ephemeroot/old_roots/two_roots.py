"""Two roots side by side: mounted in a private namespace, compared, and shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks import records
from ephemeroot.hooks.plan import Plan
from ephemeroot.linux import mounts
from ephemeroot.linux.namespace import Namespace
from ephemeroot.old_roots import noise, persisted
from ephemeroot.old_roots.comparison import Comparison, Difference
from ephemeroot.old_roots.histories import Keeper
from ephemeroot.wipers import skeleton
from ephemeroot.wipers.history import History

BASE, FRESH = "base", "fresh"

# Directories that every system has: only new entries in them are reported.
_STRUCTURE = (
    "/boot", "/etc", "/home", "/mnt", "/opt", "/root", "/srv", "/usr", "/usr/lib", "/usr/local",
    "/usr/share", "/var", "/var/lib", "/var/log", "/var/spool",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tree:
    """A root, open; ``fd`` is ``None`` for one that begins empty. ``name`` is for people."""

    name: str
    fd: int | None

    def made(self) -> frozenset[str]:
        """Paths that the persistence stage made in it."""
        return frozenset() if self.fd is None else records.made(self.fd)


@contextmanager
def attached(private: Namespace, name: str, mount: int | None) -> Iterator[Tree]:
    """The detached *mount*, which is closed, as a tree, attached in the namespace *private*. Call
    it while the history is locked: another run deletes an old root that is not mounted.
    """
    if mount is None:
        yield Tree(name, None)
        return
    place = private.directory()
    mounts.attach_at(mount, place)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Tree(name, fd)
    finally:
        os.close(fd)
        mounts.detach(place)


def live(keeper: Keeper) -> int:
    """A read-only mount of the present root or volume of *keeper*, without the mounts in it."""
    return mounts.clone_at(keeper.live, read_only=True)


def against(history: History | None, which: str) -> int | None:
    """A mount of the other side of a comparison: ``BASE``, ``FRESH``, or an old root's name."""
    if history is None:
        if which in (BASE, FRESH):
            return None
        raise Misconfigured(
            "no old roots are kept", "compare with --against base or --against fresh"
        )
    if which == BASE:
        return history.mount_base()
    if which == FRESH:
        return history.mount_fresh()
    return history.mount(history.find(which))


def prepare(
    history: History | None,
    trees: Sequence[Tree],
    *,
    elsewhere: frozenset[str] = frozenset(),
    patterns: Sequence[str] = (),
    changed_since: Callable[[str, int], bool] | None = None,
    content: bool = False,
    shown: frozenset[str] = frozenset(),
) -> Comparison:
    """A comparison of *trees* without paths *elsewhere*, paths that match one of *patterns*, and
    paths that the persistence stage made, except those in *shown*.
    """
    is_noise = noise.matcher(patterns)
    made = {*_STRUCTURE, *(f"/{name}" for name in skeleton.NAMES)}
    for tree in trees:
        made |= tree.made() - shown
    return Comparison(
        skip=lambda path: path in elsewhere or is_noise(path),
        made=made,
        changed_since=changed_since,
        related=history is not None and history.SNAPSHOTS,
        content=content,
    )


def run(comparison: Comparison, old: Tree, new: Tree) -> list[Difference]:
    """All differences, ordered by path."""
    if new.fd is None:
        raise EphemerootError(f"{new.name} has nothing to compare")
    return sorted(comparison.run(old.fd, new.fd), key=lambda d: d.path.split("/"))


def patterns(given: Sequence[str], *, everything: bool) -> list[str]:
    """Patterns to leave out: the known noise, unless *everything*, and those *given*."""
    return [*([] if everything else noise.known()), *given]


def elsewhere(plan: Plan, keeper: Keeper, without: Sequence[str] = ()) -> frozenset[str]:
    """See ``persisted.elsewhere``. Declared paths in *without* are not in effect."""
    declared = [path for path in plan.declared() if path not in without]
    return frozenset(persisted.elsewhere(plan, declared, keeper.live, keeper.target))
