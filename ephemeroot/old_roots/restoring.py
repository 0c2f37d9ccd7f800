"""Restoring paths from an old root: a plan of single steps, each of them atomic.

Users own files in both trees: each path is opened from the top and by descriptor, and a symlink is
followed only where root alone could have created it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container
from dataclasses import dataclass, field

from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks import records
from ephemeroot.linux import (
    bounds,
    comparison,
    paths,
    walk,
)
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.layers import Layers
from ephemeroot.old_roots.comparison import opened
from ephemeroot.old_roots.restore_steps import Copy, Parent, Place, Restoration, protection

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass
class Plan:
    """``steps`` to execute, in this order. ``kept`` are pairs of a path that is not restored and
    the reason, ``same`` is the number of paths that are equal already. ``layers`` are those of an
    old root that is an overlay.
    """

    steps: list[Restoration] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    same: int = 0
    meter: Meter = field(default_factory=lambda: Meter(bounds.attended()))
    layers: Layers | None = None

    @property
    def size(self) -> int:
        """Bytes, as far as they can be known before."""
        return sum(step.size for step in self.steps)

    def add(
        self,
        source: Place,
        target: Place,
        *,
        overwrite: bool,
        skip: Container[str] = frozenset(),
    ) -> None:
        """Plan to restore *source* to *target*; with *overwrite*, files that differ are replaced.

        Paths in *skip* (of the old root) below it are left out. Raises
        ``Misconfigured`` if the old root does not have *source*, and ``EphemerootError`` if it is
        more than ``meter`` allows.
        """
        if source.status() is None:
            raise Misconfigured(f"{source.shown} is not in the old root")
        self._add_parents(source, target)
        todo = [(source, target)]
        while todo:
            source, target = todo.pop()
            try:
                todo += self._look(source, target, overwrite=overwrite, skip=skip)
            except OutOfBounds as error:
                raise EphemerootError(
                    f"{target.shown} is too large to compare: {error.reason}",
                    "restore a part of it",
                ) from None
            except OSError as error:
                self.kept.append((target.shown, error.strerror or str(error)))

    def _look(
        self, source: Place, target: Place, *, overwrite: bool, skip: Container[str]
    ) -> list[tuple[Place, Place]]:
        """Plan one entry. Returns the entries of a directory that both trees have."""
        old, now = source.status(), target.status()
        if old is None:  # listed, and hidden by the overlay that shows the old root
            self.kept.append((target.shown, "a whiteout below an overlay root"))
            return []
        if now is None:
            self._add_copy(source, target, old, None)
        elif stat.S_ISDIR(old.st_mode) and stat.S_ISDIR(now.st_mode):
            inside = [(source.inside(n), target.inside(n)) for n in self._names(source)]
            return [pair for pair in inside if pair[0].path not in skip]
        elif self._is_same(source, target, old, now):
            self.same += 1
        elif stat.S_ISDIR(old.st_mode) or stat.S_ISDIR(now.st_mode):
            what = "a directory" if stat.S_ISDIR(now.st_mode) else "not a directory"
            self.kept.append((target.shown, f"it is {what} now: move it away first"))
        elif overwrite:
            flag = protection(target)
            if flag:
                self.kept.append((target.shown, f"it is {flag} now: see chattr(1)"))
            else:
                self._add_copy(source, target, old, now)
        else:
            newer = now.st_mtime_ns > old.st_mtime_ns
            reason = "the present file is newer" if newer else "the present file differs"
            self.kept.append((target.shown, reason))
        return []

    def _add_copy(
        self, source: Place, target: Place, status: os.stat_result, now: os.stat_result | None
    ) -> None:
        if stat.S_ISSOCK(status.st_mode):
            self.kept.append((target.shown, "a socket is useless without its process"))
            return
        size = self._size(source) if stat.S_ISDIR(status.st_mode) else status.st_size
        self.steps.append(Copy(source, target, size, replaced=now, layers=self.layers))

    def _add_parents(self, source: Place, target: Place) -> None:
        """Directories above *target* that are missing are made like those above *source*."""
        missing = []
        while target.parent != target.path:
            source = Place(source.root, source.parent, os.path.dirname(source.shown))
            target = Place(target.root, target.parent, os.path.dirname(target.shown))
            status = target.status()
            if status is not None:
                if not stat.S_ISDIR(status.st_mode):
                    raise EphemerootError(
                        f"{target.shown} is not a directory", "move it away first"
                    )
                break
            missing.append(Parent(source, target))
        planned = {step.target.path for step in self.steps if isinstance(step, Parent)}
        self.steps += [step for step in reversed(missing) if step.target.path not in planned]

    def _names(self, place: Place) -> list[str]:
        names = []
        with opened(place.root, place.path, _DIRECTORY) as fd, paths.entries(fd) as found:
            for entry in found:
                self.meter.count_entry(place.path)
                names.append(entry.name)
        return sorted(names, reverse=True)

    def _is_same(
        self, source: Place, target: Place, old: os.stat_result, now: os.stat_result
    ) -> bool:
        if stat.S_IFMT(old.st_mode) != stat.S_IFMT(now.st_mode):
            return False
        with (
            opened(source.root, source.parent, _DIRECTORY) as one,
            opened(target.root, target.parent, _DIRECTORY) as other,
        ):
            if stat.S_ISREG(old.st_mode):
                return comparison.same(one, source.name, other, target.name, self.meter)
            facts = [(s.st_uid, s.st_gid, s.st_mode, s.st_rdev) for s in (old, now)]
            if not stat.S_ISLNK(old.st_mode):
                return facts[0] == facts[1]
            links = [os.readlink(source.name, dir_fd=one), os.readlink(target.name, dir_fd=other)]
            return facts[0][:2] == facts[1][:2] and links[0] == links[1]

    def _size(self, place: Place) -> int:
        """Bytes of all files below the directory."""
        with opened(place.root, place.path, _DIRECTORY) as top:
            return sum(
                status.st_size
                for _, status in walk.below(top, ".", Meter(self.meter.bounds))
                if stat.S_ISREG(status.st_mode)
            )


def was_persisted(root: int, path: str) -> str | None:
    """What in the open old *root*, *path* or above it, was only a place for persistent paths."""
    made = records.made(root)
    while path not in ("/", ""):
        if path in made:
            return path
        path = os.path.dirname(path)
    return None
