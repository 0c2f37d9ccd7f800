"""Making one tree like another, where both may change meanwhile and users may have made them.

Everything goes through open directories and nothing is followed. What is alike already is not
touched, so that a second run costs a walk: it is how a copy is verified, caught up with, and
completed after an interruption. What is new is finished in a workshop and arrives by one rename.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from ephemeroot.conversion import likeness
from ephemeroot.conversion.descent import COPY, Descent
from ephemeroot.conversion.likeness import lstat
from ephemeroot.linux import attributes, contents, inode_flags, paths
from ephemeroot.linux.bounds import Meter
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.mounts import fd_path
from ephemeroot.linux.workshop import Workshop, is_certain


class Mirror:
    """Makes targets like their sources.

    ``excluded`` are paths, relative to what is mirrored, that are left alone with everything below
    them, as are the directories that lead to them, except for what else is in those. With
    ``delete`` what the source does not have is removed. With ``content`` files that look alike
    (size, time, owner, mode, attributes) are compared byte by byte. What was changed in the target
    after ``since`` (nanoseconds, 0: no such time) is newer than any source: it stays and is listed
    in ``kept``.

    ``changed`` and ``removed`` list paths as they are done, ``copier`` counts bytes. ``skipped``
    has the path and the reason of each entry that could not be copied; the others are copied.
    ``flattened`` are subvolumes that became directories.
    Raises ``OutOfBounds`` for more than the bounds of ``copier`` allow, and ``OSError`` for what
    concerns the whole (no space, read-only).
    """

    def __init__(
        self,
        *,
        excluded: Iterable[str] = (),
        delete: bool = True,
        content: bool = False,
        since: int = 0,
        copier: Copier | None = None,
    ) -> None:
        self.excluded = frozenset(path.strip("/") for path in excluded)
        self.leading = {
            path[:n] for path in self.excluded for n, char in enumerate(path) if char == "/"
        } | ({""} if self.excluded else set())
        self.delete = delete
        self.content = content
        self.since = since
        self.copier = Copier() if copier is None else copier
        self.meter = Meter(self.copier.meter.bounds)
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.flattened: list[str] = []
        self._protected: set[tuple[int, int]] = set()

    def directory(self, source: int, parent: int, name: str, *, pinned: bool = False) -> None:
        """Make what the open *parent* has as *name* like the open directory *source*.

        *pinned*: the entry cannot have been exchanged, whoever can write to *parent*.
        """
        there = lstat(parent, name)
        if there is None or not (
            pinned or self.excluded or is_certain(parent, there, os.fstat(source).st_uid)
        ):
            self._make_directory(source, parent, name, there)
            if not self.excluded:
                return
        target = open_directory(parent, name)
        try:
            present = os.fstat(target)
            certain = pinned or is_certain(parent, present, os.fstat(source).st_uid)
            if there is not None and not certain:
                raise OSError(
                    errno.EPERM, "has another owner than its source, and a user could exchange it"
                )
            self._tree(source, target, certain=certain)
        finally:
            os.close(target)

    def _make_directory(
        self, source: int, parent: int, name: str, there: os.stat_result | None
    ) -> None:
        with Workshop(parent) as workshop:
            if self.excluded:
                os.mkdir(COPY, 0o700, dir_fd=workshop.fd)
                made = open_directory(workshop.fd, COPY)
                try:
                    inode_flags.begin(source, made)
                    attributes.copy(source, made, lambda _, error: self.skip("", error))
                finally:
                    os.close(made)
            else:
                self.copy(source, ".", workshop, "")
            self.arrive(workshop, name, "", there)

    def tree(self, source: int, target: int) -> None:
        """Make the open directory *target*, which only root can reach, like the open *source*."""
        self._tree(source, target, certain=True)

    def file(self, source: int, parent: int, name: str, path: str) -> None:
        """Make what the open *parent* has as *name* like the open file *source*.

        In place where it is certain which file that is: it may be bound elsewhere, or a mount
        point. *path* is for the lists.
        """
        there = lstat(parent, name)
        if there is None:
            self._make_file(source, parent, name, path, None)
            return
        target = paths.open_regular(parent, name)
        present = os.fstat(target)
        try:
            if likeness.same_file(source, target, self.meter, path, content=self.content):
                return
            if self.is_newer(present):
                self.kept.append(path)
                return
            wanted = os.fstat(source)
            if is_certain(parent, present, wanted.st_uid) and present.st_mode == wanted.st_mode:
                self._fill(source, target, parent, path)
                return
            try:
                self._make_file(source, parent, name, path, present)
            except OSError as error:
                # A mount point is never renamed, so it cannot have been exchanged.
                if error.errno != errno.EBUSY or os.fstat(target).st_nlink != 1:
                    raise
                self._fill(source, target, parent, path)
        finally:
            os.close(target)

    def _fill(self, source: int, target: int, parent: int, path: str) -> None:
        with inode_flags.Lifted(target):
            new = os.open(fd_path(target), os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fchmod(new, 0o600)
                os.ftruncate(new, 0)
                inode_flags.begin(source, new, directory=parent)
                contents.copy(source, new, self.copier, path)
            finally:
                os.close(new)
        likeness.give(source, target)
        self.changed.append(path)

    def _make_file(
        self, source: int, parent: int, name: str, path: str, there: os.stat_result | None
    ) -> None:
        with Workshop(parent) as workshop:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            new = os.open(COPY, flags, 0o600, dir_fd=workshop.fd)
            try:
                inode_flags.begin(source, new, directory=workshop.fd)
                self.copier.fill(source, new, path)
                os.fsync(new)
            finally:
                os.close(new)
            self.arrive(workshop, name, path, there)

    def _tree(self, source: int, target: int, *, certain: bool) -> None:
        for path in (*self.excluded, *self.leading):
            # What a user renames must not be removed under its new name.
            try:
                fd = paths.open_beneath(target, path or ".")
            except OSError:
                continue
            status = os.fstat(fd)
            self._protected.add((status.st_dev, status.st_ino))
            os.close(fd)
        with Descent(self, source, target, certain=certain) as descent:
            descent.run()

    def copy(self, source: int, name: str, workshop: Workshop, path: str) -> None:
        """Copy the entry *name* of *source* into the *workshop*; entries in it may be skipped."""

        def skipped(inside: str, reason: str) -> None:
            self.skipped.append((f"{path}/{inside}".strip("/"), reason))

        self.copier.skipped = skipped
        self.copier.copy(source, name, workshop.fd, COPY, subvolume=name != ".")
        self.flattened += [f"{path}/{inside}".strip("/") for inside in self.copier.flattened]

    def arrive(
        self, workshop: Workshop, name: str, path: str, present: os.stat_result | None
    ) -> None:
        """Give the copy in the *workshop* its *name*, in the place of *present*."""
        if lstat(workshop.fd, COPY) is None:
            return  # it was a socket by then, or a mount point
        if present is None:
            try:
                workshop.deliver(COPY, name)
            except FileExistsError:
                pass  # made meanwhile; the next run compares it
        elif self.is_protected(present) or not workshop.replace(COPY, name, present):
            pass  # exchanged meanwhile; the next run compares it
        self.changed.append(path)

    def is_protected(self, status: os.stat_result) -> bool:
        """Whether it is one of the excluded entries, under whatever name."""
        return (status.st_dev, status.st_ino) in self._protected

    def is_newer(self, status: os.stat_result) -> bool:
        """Whether the target's entry was changed after ``since``."""
        return bool(self.since) and status.st_ctime_ns > self.since

    def skip(self, path: str, error: OSError) -> None:
        """Note that an entry could not be copied."""
        if error.errno == errno.EXDEV:
            self.skipped.append((path, "it is a mount point"))
        else:
            self.skipped.append((path, error.strerror or str(error)))


def settle(run: Callable[[], Mirror], passes: int = 3) -> Mirror:
    """Run until a pass changes nothing, at most *passes* times, and return the last one: what it
    has changed is what another process keeps writing to.
    """
    done = run()
    for _ in range(passes - 1):
        if not done.changed and not done.removed:
            break
        done = run()
    return done


def open_directory(directory: int, path: str) -> int:
    """Open the directory *path* below *directory* for reading, never by a symlink."""
    return paths.open_beneath(directory, path, os.O_RDONLY | os.O_DIRECTORY)
