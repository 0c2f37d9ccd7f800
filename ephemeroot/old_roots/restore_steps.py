"""The steps of restoring a path: creating its parent directories, and the copy itself.

A step makes a complete copy in a workshop, which only root can enter, and moves it to its target
with one rename, which overwrites only the file that the plan names. If it is interrupted, existing
files are unchanged; the next run removes unfinished copies.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.linux import (
    bounds,
    immutable,
    inode_flags,
    kernel,
    workshop,
)
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.layers import Layers
from ephemeroot.linux.workshop import Workshop
from ephemeroot.old_roots.comparison import opened
from ephemeroot.step import Step
from ephemeroot.wipers import attributes

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
        """The status of the path; ``None`` if it, or a directory on the way, is missing."""
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


class Restoration(Step):
    """One step: ``source`` in the old root goes to ``target``. ``size`` is in bytes."""

    GOES_ON = True
    __slots__ = ("progress", "size", "source", "target")

    def __init__(self, source: Place, target: Place, size: int = 0) -> None:
        self.source = source
        self.target = target
        self.size = size
        self.progress: Callable[[int, str], None] = lambda size, name: None


class Parent(Restoration):
    """Make a directory as the old root has it, without its content."""

    __slots__ = ()

    def describe(self) -> str:
        return f"restore the directory {self.target.shown}"

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


class Copy(Restoration):
    """Copy a file, a link or a whole directory.

    Without *replaced* the target must not exist. With it the target, which is not a directory, must
    still have that status: the copy replaces it. Raises ``FileExistsError`` if another process
    has created or replaced it. ``left_out`` has the path and the reason of each entry that could
    not be copied; the rest is restored. ``flattened`` are subvolumes that became directories.
    ``layers`` are those of the old root, if it is an overlay.
    """

    __slots__ = ("flattened", "layers", "left_out", "replaced")

    def __init__(
        self,
        source: Place,
        target: Place,
        size: int,
        *,
        replaced: os.stat_result | None,
        layers: Layers | None = None,
    ) -> None:
        super().__init__(source, target, size)
        self.layers = layers.at(source.path) if layers is not None else None
        self.replaced = replaced
        self.left_out: list[tuple[str, str]] = []
        self.flattened: list[str] = []

    def describe(self) -> str:
        origin = self.source.shown
        origin = "" if origin == self.target.shown else f", which was {origin}"
        if self.replaced is not None:
            return f"replace {self.target.shown} by the old version{origin}"
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
                    raise FileExistsError(errno.EEXIST, "replaced meanwhile", self.target.shown)
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

        copier = Copier(bounds.attended(), progress=report, skipped=skipped, layers=self.layers)
        try:
            copier.copy(source, self.source.name, shop.fd, _COPY, subvolume=True)
            self.flattened = copier.flattened
        except OutOfBounds as error:
            raise EphemerootError(
                f"{self.source.shown} is not restored: {error}", "restore a part of it"
            ) from None


def protection(place: Place) -> str:
    """``immutable`` or ``append-only`` if the existing content must not be replaced; else empty."""
    with opened(place.root, place.parent, _DIRECTORY) as parent:
        fd = immutable.open_entry(parent, place.name)
    if fd < 0:
        return ""
    try:
        return inode_flags.described(fd)
    finally:
        os.close(fd)


def _make_durable(parent: int, name: str) -> None:
    """A name must not survive a power cut that its content does not."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        kernel.sync_filesystem(parent)
    elif stat.S_ISREG(status.st_mode):
        with opened(parent, name, os.O_RDONLY | os.O_NOFOLLOW) as fd:
            os.fsync(fd)
