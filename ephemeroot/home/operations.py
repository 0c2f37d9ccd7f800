"""The operations in a home. Each describes itself in one line, and does only that.

An operation checks the state again before its change: it unmounts or removes only its own
proven mounts and files, and never covers or replaces others.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass

from ephemeroot.config.syntax import clean
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.home import fuse, holders
from ephemeroot.home.bindfs import Bindfs
from ephemeroot.home.model import Entry
from ephemeroot.home.record import BEING_MADE
from ephemeroot.home.view import View, aside, is_dead, readlink
from ephemeroot.linux import attributes, paths
from ephemeroot.machine import labelling
from ephemeroot.machine.labels import Labels
from ephemeroot.step import Step


@dataclass(slots=True)
class Work:
    """The context of operations. ``wait``: remaining seconds to wait for all busy mounts, before
    they are unmounted lazily.
    """

    view: View
    wait: float
    bindfs: Bindfs | EphemerootError | None = None
    labels: Labels | None = None

    def label(self, path: str) -> None:
        """Give the new entry at *path* the label of SELinux's policy, where there is one."""
        if self.labels is None:
            self.labels = Labels.of("/")
        directory, name = os.path.split(path)
        labelling.settle(self.labels, directory, directory, [name])


class Operation(Step):
    """One change at ``path``, in a run that has ``work``."""

    __slots__ = ("path", "work")

    GOES_ON = True

    def __init__(self, work: Work, path: str) -> None:
        self.work = work
        self.path = path

    def announce(self) -> bool:
        """Put into the record what the operation is about to make, if the home cannot show later
        whose it is; return whether the record has changed.
        """
        return False


class Unmount(Operation):
    """Unmounts our mount; its directory stays."""

    __slots__ = ("source", "warnings")

    def __init__(self, work: Work, path: str, source: str) -> None:
        super().__init__(work, path)
        self.source = source
        self.warnings: list[str] = []

    def describe(self) -> str:
        return f"unmount {self.path}"

    def execute(self) -> str:
        """See ``Step``. A busy mount is unmounted lazily, with a warning that names the users."""
        work, view = self.work, self.work.view
        view.look()
        while (mount := view.mount_at(self.path)) is not None:
            if not view.is_ours(mount, self.source):
                raise Refused(
                    f"{self.path}: {mount.source} is mounted there, but not by ephemeroot"
                )
            dead = is_dead(self.path)
            # A lazy unmount would also end mounts inside of it. A mount inside a dead mount cannot
            # be reached, and ends with it.
            below = [m for m in view.mounts_below(self.path) if not (dead and view.is_ours(m))]
            if below:
                raise Refused(
                    f"cannot unmount {self.path}: {below[0].source} is mounted under it, on "
                    f"{below[0].point}",
                    "unmount that first",
                )
            begun = time.monotonic()
            held = fuse.unmount(mount.point, 0 if dead else work.wait)
            work.wait = max(0, work.wait - (time.monotonic() - begun))
            if held is not None and not dead:
                self.warnings = [
                    f"{self.path} was unmounted lazily: in use by {holders.words(held)}"
                ]
            view.look()
        view.record.mounts.pop(self.path, None)
        return ""


class RemoveLink(Operation):
    """Removes our link."""

    __slots__ = ("source",)

    def __init__(self, work: Work, path: str, source: str) -> None:
        super().__init__(work, path)
        self.source = source

    def describe(self) -> str:
        return f"remove the link {self.path}"

    def execute(self) -> str:
        _remove_aside(self.path, self.source)
        if readlink(self.path) == self.source:
            _withdraw(self.path, self.source)
        self.work.view.record.links.pop(self.path, None)
        return ""


class RemoveDirectory(Operation):
    """Removes our directory if it is empty; with ``any_empty``, any empty directory."""

    __slots__ = ("any_empty",)

    def __init__(self, work: Work, path: str, *, any_empty: bool = False) -> None:
        super().__init__(work, path)
        self.any_empty = any_empty

    def describe(self) -> str:
        return f"remove the directory {self.path} if it is empty"

    def execute(self) -> str:
        view, record = self.work.view, self.work.view.record
        if self.any_empty or view.is_our_directory(self.path):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise
                if any(clean.is_below(path, self.path) for path in view.ours()):
                    return ""  # the next run removes the rest
        # Removed, or with other files in it: then the record gives it up.
        record.directories.pop(self.path, None)
        return ""


class MakeDirectory(Operation):
    """Creates a directory: in the home, where the record keeps it as ours, or in the store.

    It gets the mode of ``like``, its counterpart on the other side, or 0700 without one: a new
    directory must not expose files that only their directory protects.
    """

    __slots__ = ("in_store", "like")

    def __init__(self, work: Work, path: str, like: str, *, in_store: bool = False) -> None:
        super().__init__(work, path)
        self.in_store = in_store
        self.like = like

    def describe(self) -> str:
        return f"make the directory {self.path}"

    def announce(self) -> bool:
        if self.in_store or os.path.lexists(self.path):
            return False
        self.work.view.record.directories[self.path] = BEING_MADE
        return True

    def execute(self) -> str:
        record = self.work.view.record
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            if record.directories.get(self.path) == BEING_MADE:
                del record.directories[self.path]  # another program has made it
            if os.path.isdir(self.path):
                return ""
            raise
        if not self.in_store:
            record.directories[self.path] = os.lstat(self.path).st_ino
        if self.like and os.path.isdir(self.like):
            self._take_mode()
        self.work.label(self.path)
        return ""

    def _take_mode(self) -> None:
        """Set the mode, not through a link: others may be able to write to the store's parent."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, attributes.own_mode(self.like))
        finally:
            os.close(fd)


class MountDirectory(Operation):
    """Mounts an entry's source at its target."""

    __slots__ = ("entry",)

    def __init__(self, work: Work, entry: Entry) -> None:
        super().__init__(work, entry.target)
        self.entry = entry

    def describe(self) -> str:
        others = ", for other users as well" if self.entry.allow_other else ""
        return f"mount {self.entry.source} on {self.path}{others}"

    def execute(self) -> str:
        work, entry = self.work, self.entry
        view = work.view
        if work.bindfs is None:
            work.bindfs = _find_bindfs()
        if isinstance(work.bindfs, EphemerootError):
            raise work.bindfs
        if entry.allow_other and (forbidden := fuse.others_forbidden()):
            raise forbidden
        view.look()
        if view.mount_at(entry.target) is not None or view.mounts_below(entry.target):
            raise Refused(
                f"cannot mount on {entry.target}: another filesystem is mounted there now",
                "run 'ephemeroot home status'",
            )
        if os.path.islink(entry.target) or paths.names(entry.target):
            hint = f"move its content to {entry.source}"
            raise Refused(f"cannot mount on {entry.target}: not an empty directory", hint)
        work.bindfs.mount(entry)
        view.look()
        mount = view.mount_at(entry.target)
        if mount is None or not fuse.is_fuse(mount) or fuse.owner(mount) != view.user.uid:
            raise EphemerootError(f"bindfs reported success, but {entry.target} is not mounted")
        view.record.mounts[entry.target] = view.remember(mount, entry.source)
        return ""


class MakeLink(Operation):
    """Makes an entry's target a link to its source."""

    __slots__ = ("entry",)

    def __init__(self, work: Work, entry: Entry) -> None:
        super().__init__(work, entry.target)
        self.entry = entry

    def describe(self) -> str:
        return f"link {self.path} to {self.entry.source}"

    def execute(self) -> str:
        if readlink(self.path) != self.entry.source:
            try:
                os.symlink(self.entry.source, self.path)
            except FileExistsError:
                raise Refused(
                    f"cannot create the link {self.path}: it exists",
                    f"move it to {self.entry.source}, or away",
                ) from None
            self.work.label(self.path)
        self.work.view.record.links[self.path] = self.entry.source
        return ""


def _find_bindfs() -> Bindfs | EphemerootError:
    try:
        return fuse.unusable() or Bindfs.find()
    except EphemerootError as error:
        return error


def _remove_aside(path: str, source: str) -> None:
    """Remove the link to *source* that an interrupted run has moved aside from *path*."""
    if readlink(aside(path)) == source:
        os.unlink(aside(path))


def _withdraw(path: str, source: str) -> None:
    """Remove the link at *path* under a name of our own: a file that a program puts in its place
    meanwhile is moved back.
    """
    directory, _, name = path.rpartition("/")
    place = aside(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        temporary = os.path.basename(place)
        paths.rename(fd, name, fd, temporary, flags=paths.RENAME_NOREPLACE)
        if readlink(place) == source:
            os.unlink(place)
            return
        try:
            paths.rename(fd, temporary, fd, name, flags=paths.RENAME_NOREPLACE)
        except OSError as error:
            raise Refused(
                f"cannot remove the link {path}: a program replaced it, and {place} could not be "
                f"moved back: {error.strerror}",
                f"run 'mv {place} {path}'",
            ) from error
    finally:
        os.close(fd)
    raise Refused(
        f"cannot remove the link {path}: a program has replaced it", "run 'ephemeroot home status'"
    )
