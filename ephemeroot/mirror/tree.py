"""Making one tree like another, while both may change and users may own parts of them.

Every access goes through open directories, and no link is followed. Equal entries are left alone,
so a second run costs no more than a walk: it verifies a copy, copies later changes, and completes
an interrupted run. A new entry is finished in a workshop and put in place by one rename.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ephemeroot.linux import attributes, contents, immutable, inode_flags, paths
from ephemeroot.linux.mounts import fd_path
from ephemeroot.linux.workshop import Workshop, is_certain
from ephemeroot.mirror import likeness
from ephemeroot.mirror.descent import Descent
from ephemeroot.mirror.likeness import lstat
from ephemeroot.mirror.run import COPY, MirrorRun


class Mirror(MirrorRun):
    """Makes targets like their sources, with the settings of ``MirrorRun``."""

    def directory(self, source: int, parent: int, name: str, *, pinned: bool = False) -> None:
        """Make the entry *name* of the open *parent* like the open directory *source*.

        *pinned*: no user can have exchanged the entry, even one who can write to *parent*.
        """
        found = lstat(parent, name)
        if found is None or not (
            pinned or self.excluded or is_certain(parent, found, os.fstat(source).st_uid)
        ):
            self._make_directory(source, parent, name, found)
            if not self.excluded:
                return
        target = open_directory(parent, name)
        try:
            present = os.fstat(target)
            certain = pinned or is_certain(parent, present, os.fstat(source).st_uid)
            if found is not None and not certain:
                raise OSError(
                    errno.EPERM, "its owner differs from its source's, and a user could replace it"
                )
            self._tree(source, target, certain=certain)
        finally:
            os.close(target)

    def _make_directory(
        self, source: int, parent: int, name: str, present: os.stat_result | None
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
            self.arrive(workshop, name, "", present)

    def tree(self, source: int, target: int) -> None:
        """Make the open directory *target*, which only root can reach, like the open *source*."""
        self._tree(source, target, certain=True)

    def file(self, source: int, parent: int, name: str, path: str) -> None:
        """Make the entry *name* of the open *parent* like the open file *source*.

        The file is written in place where no user can have exchanged it: it may be bound elsewhere,
        or be a mount point. The lists of results name it *path*.
        """
        if lstat(parent, name) is None:
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
                # A mount point cannot be renamed, so no user can have exchanged it.
                if error.errno != errno.EBUSY or os.fstat(target).st_nlink != 1:
                    raise
                self._fill(source, target, parent, path)
        finally:
            os.close(target)

    def _fill(self, source: int, target: int, parent: int, path: str) -> None:
        with immutable.Lifted(target):
            new = os.open(fd_path(target), os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fchmod(new, 0o600)
                os.ftruncate(new, 0)
                inode_flags.begin(source, new, directory=parent)
                contents.copy(source, new, self.copier, path)
            finally:
                os.close(new)
        likeness.copy_metadata(source, target)
        self.changed.append(path)

    def _make_file(
        self, source: int, parent: int, name: str, path: str, present: os.stat_result | None
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
            self.arrive(workshop, name, path, present)

    def _tree(self, source: int, target: int, *, certain: bool) -> None:
        for path in (*self.excluded, *self.leading):
            # An excluded entry that a user renames must not be removed under its new name.
            try:
                fd = paths.open_beneath(target, path or ".")
            except OSError:
                continue
            status = os.fstat(fd)
            self._protected.add((status.st_dev, status.st_ino))
            os.close(fd)
        with Descent(self, source, target, certain=certain) as descent:
            descent.run()


def settle(run: Callable[[], Mirror], passes: int = 3) -> Mirror:
    """Run until a pass changes nothing, at most *passes* times, and return the last pass. Its
    changes are paths to which another process keeps writing.
    """
    done = run()
    for _ in range(passes - 1):
        if not done.changed and not done.removed:
            break
        done = run()
    return done


def open_directory(directory: int, path: str) -> int:
    """Open the directory *path* under *directory* for reading; symlinks are refused."""
    return paths.open_beneath(directory, path, os.O_RDONLY | os.O_DIRECTORY)
