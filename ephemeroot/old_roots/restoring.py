"""Bringing back what an old root has: planned as single steps, each of them atomic.

A step makes a complete copy in a workshop, which only root can enter, and moves it to its target
with one rename, which overwrites nothing that it was not told to. Interrupted anywhere, what was
there is there; the next run removes what was begun. Both trees are full of what users
made: everything is opened from the top and by descriptor, and a symlink is followed only where
nobody but root could have put it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from ephemeroot.errors import EphemerootError, Misconfigured
from ephemeroot.hooks import records, tree
from ephemeroot.linux import bounds, comparison, inode_flags, kernel, paths, walk, workshop
from ephemeroot.linux.bounds import Meter, OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.workshop import Workshop
from ephemeroot.old_roots.comparison import opened
from ephemeroot.wipers import attributes
from ephemeroot.wipers.changes import Change

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_COPY = "copy"


@dataclass(frozen=True, slots=True)
class Place:
    """The path *path* (resolved, absolute from there) below the open directory ``root``.

    ``shown`` is how people call it.
    """

    root: int
    path: str
    shown: str

    def inside(self, name: str) -> Place:
        """The entry *name* of this directory."""
        return Place(self.root, os.path.join(self.path, name), os.path.join(self.shown, name))

    @property
    def parent(self) -> str:
        return os.path.dirname(self.path)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def status(self) -> os.stat_result | None:
        """What is there; ``None`` for nothing, or if a directory on the way is missing."""
        try:
            with opened(self.root, self.parent, _DIRECTORY) as parent:
                return os.stat(self.name or ".", dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None


def locate(root: int, path: str, shown: str | None = None) -> Place:
    """The absolute *path* in the open *root*; symlinks on the way there are followed inside it.

    Raises ``OSError`` with ``ELOOP`` for one that a user could have put there.
    """
    head, name = os.path.split(path)
    try:
        folder = tree.resolve(root, head)
    except (FileNotFoundError, NotADirectoryError):
        folder = _as_far_as_it_goes(root, head)
    return Place(root, os.path.join(folder, name), shown or path)


def _as_far_as_it_goes(root: int, path: str) -> str:
    """*path* resolved as far as it exists: the rest will be made."""
    missing: list[str] = []
    while True:
        path, name = os.path.split(path)
        missing.append(name)
        try:
            return os.path.join(tree.resolve(root, path), *reversed(missing))
        except (FileNotFoundError, NotADirectoryError):
            continue


class Step(Change):
    """One step: ``source`` in the old root goes to ``target``. ``size`` is in bytes."""

    __slots__ = ("progress", "size", "source", "target")

    def __init__(self, source: Place, target: Place, size: int = 0) -> None:
        self.source = source
        self.target = target
        self.size = size
        self.progress: Callable[[int, str], None] = lambda size, name: None


class Parent(Step):
    """Make a directory as the old root has it, without what is in it."""

    __slots__ = ()

    def describe(self) -> str:
        return f"make the directory {self.target.shown} as it was"

    def execute(self) -> str:
        with (
            opened(self.source.root, self.source.path, _DIRECTORY) as pattern,
            opened(self.target.root, self.target.parent, _DIRECTORY) as parent,
        ):
            workshop.sweep(parent)
            with Workshop(parent) as shop:
                os.mkdir(_COPY, 0o700, dir_fd=shop.fd)
                with opened(shop.fd, _COPY, _DIRECTORY) as made:
                    attributes.copy(pattern, made)
                    inode_flags.begin(pattern, made)
                shop.deliver(_COPY, self.target.name)
        return self.target.shown


class Copy(Step):
    """Copy a file, a link or a whole directory.

    Without *replaced* the target must not exist. With it the target, which is not a directory, must
    be what has that status: the copy takes its place. ``FileExistsError`` if another process has
    made or exchanged it. ``left_out`` has the path and the reason of each entry that could not be
    copied; the rest is restored. ``flattened`` are subvolumes that became directories.
    """

    __slots__ = ("flattened", "left_out", "replaced")

    def __init__(
        self, source: Place, target: Place, size: int, *, replaced: os.stat_result | None
    ) -> None:
        super().__init__(source, target, size)
        self.replaced = replaced
        self.left_out: list[tuple[str, str]] = []
        self.flattened: list[str] = []

    def describe(self) -> str:
        origin = self.source.shown
        origin = "" if origin == self.target.shown else f", which was {origin}"
        if self.replaced is not None:
            return f"replace {self.target.shown} by the old one{origin}"
        return f"restore {self.target.shown}{origin}"

    def execute(self) -> str:
        with (
            opened(self.source.root, self.source.parent, _DIRECTORY) as source,
            opened(self.target.root, self.target.parent, _DIRECTORY) as parent,
        ):
            workshop.sweep(parent)
            with Workshop(parent) as shop:
                self._copy(source, shop)
                _make_durable(shop.fd, _COPY)
                if self.replaced is None:
                    shop.deliver(_COPY, self.target.name)
                elif not shop.replace(_COPY, self.target.name, self.replaced):
                    raise FileExistsError(errno.EEXIST, "exchanged meanwhile", self.target.shown)
        return self.target.shown

    def _copy(self, source: int, shop: Workshop) -> None:
        done = 0

        def report(name: str) -> None:
            nonlocal done
            now = copier.copied + copier.shared
            self.progress(now - done, name)
            done = now

        def skipped(path: str, reason: str) -> None:
            self.left_out.append((f"{self.target.shown}/{path}".rstrip("/"), reason))

        copier = Copier(bounds.attended(), progress=report, skipped=skipped)
        try:
            copier.copy(source, self.source.name, shop.fd, _COPY, subvolume=True)
            self.flattened = copier.flattened
        except OutOfBounds as error:
            raise EphemerootError(
                f"{self.source.shown} is not restored: {error}", "restore some part of it"
            ) from None


@dataclass
class Plan:
    """What is to be done (``steps``, in this order), and what stays as it is: ``kept`` are
    pairs of a path and a reason, ``same`` is how many are as they were already.
    """

    steps: list[Step] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    same: int = 0
    meter: Meter = field(default_factory=lambda: Meter(bounds.attended()))

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
        """Plan to bring *source* back to *target*; with *overwrite* over what differs there.

        What is below and in *skip* (paths of the old root) is passed over. Raises
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
                    f"{target.shown} is too much to look at: {error.reason}",
                    "restore some part of it",
                ) from None
            except OSError as error:
                self.kept.append((target.shown, error.strerror or str(error)))

    def _look(
        self, source: Place, target: Place, *, overwrite: bool, skip: Container[str]
    ) -> list[tuple[Place, Place]]:
        """Plan one entry; what is in a directory that both have is still to be looked at."""
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
            what = "a directory" if stat.S_ISDIR(now.st_mode) else "no directory"
            self.kept.append((target.shown, f"there is {what} now: move it away first"))
        elif overwrite:
            protection = _protection(target)
            if protection:
                self.kept.append((target.shown, f"it is {protection} now: see chattr(1)"))
            else:
                self._add_copy(source, target, old, now)
        else:
            newer = now.st_mtime_ns > old.st_mtime_ns
            reason = "what is there now is newer" if newer else "what is there now differs"
            self.kept.append((target.shown, reason))
        return []

    def _add_copy(
        self, source: Place, target: Place, status: os.stat_result, now: os.stat_result | None
    ) -> None:
        if stat.S_ISSOCK(status.st_mode):
            self.kept.append((target.shown, "a socket is nothing without its process"))
            return
        size = self._size(source) if stat.S_ISDIR(status.st_mode) else status.st_size
        self.steps.append(Copy(source, target, size, replaced=now))

    def _add_parents(self, source: Place, target: Place) -> None:
        """Directories above *target* that are missing are made like those above *source*."""
        missing = []
        while target.parent != target.path:
            source = Place(source.root, source.parent, os.path.dirname(source.shown))
            target = Place(target.root, target.parent, os.path.dirname(target.shown))
            status = target.status()
            if status is not None:
                if not stat.S_ISDIR(status.st_mode):
                    raise EphemerootError(f"{target.shown} is no directory", "move it away first")
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


def _protection(place: Place) -> str:
    """``immutable`` or ``append-only`` if what is there must not be replaced; else empty."""
    with opened(place.root, place.parent, _DIRECTORY) as parent:
        fd = inode_flags.open_entry(parent, place.name)
    if fd < 0:
        return ""
    try:
        return inode_flags.described(fd)
    finally:
        os.close(fd)


def was_persisted(root: int, path: str) -> str | None:
    """What in the open old *root*, *path* or above it, was only a place for what persists."""
    made = records.made(root)
    while path not in ("/", ""):
        if path in made:
            return path
        path = os.path.dirname(path)
    return None


def _make_durable(parent: int, name: str) -> None:
    """A name must not survive a power cut that its content does not."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        kernel.sync_filesystem(parent)
    elif stat.S_ISREG(status.st_mode):
        with opened(parent, name, os.O_RDONLY | os.O_NOFOLLOW) as fd:
            os.fsync(fd)
