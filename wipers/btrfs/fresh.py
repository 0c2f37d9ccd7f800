"""A fresh root under its temporary name, complete before it gets its place."""

from __future__ import annotations

import os

from ephemeroot.wipers import attributes, marks, skeleton
from ephemeroot.wipers.btrfs import directories, qgroups, stubs, subvolumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.btrfs.history import SubvolumeHistory


class FreshRoot:
    """A fresh root called *text* beside the root of *history*.

    *source* is the open subvolume it will be a snapshot of, or -1 for an empty root;
    *previous* the open root before it, or -1, from which it inherits what btrfs keeps
    per subvolume: quota groups and limits, properties. *is_root*: it will be ``/``, so
    an empty one gets a skeleton.
    """

    __slots__ = ("history", "id", "is_root", "previous", "source", "text", "uuid")

    def __init__(
        self, history: SubvolumeHistory, text: str, *, source: int, previous: int, is_root: bool
    ) -> None:
        self.history = history
        self.text = text
        self.source = source
        self.previous = previous
        self.is_root = is_root
        self.id = 0
        self.uuid = ""

    def make(self, prove: Callable[[str], None]) -> None:
        """Create, fill and prove it; *prove* gets its path. It is removed if that fails."""
        parent = self.history.parent
        groups = self._groups()
        if self.source >= 0:
            subvolumes.snapshot(self.source, parent, self.text, groups)
        else:
            subvolumes.create(parent, self.text, groups)
        fd = subvolumes.open_directory(parent, self.text)
        try:
            identity = subvolumes.identify(fd)
            self.id, self.uuid = identity.id, identity.uuid
            subvolumes.unlock(fd)  # as the base's own directory may be
            # First of all: without a mark it looks like a subvolume of the administrator's.
            marks.set_state(fd, identity.uuid, marks.NEW)
            self._fill(fd)
            prove("/".join(filter(None, (self.history.top.path, self.history.beside, self.text))))
        except BaseException:
            self.discard()
            raise
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Delete it, unless it has its place: an interruption can arrive after the exchange,
        when the temporary name is the previous root's. A failure is left to the next recovery.
        """
        try:
            fd = directories.subvolume(self.history.parent, self.text)
            if fd < 0:
                return
            try:
                identity = subvolumes.identify(fd)
                if self.uuid and identity.uuid == self.uuid:
                    subvolumes.delete_open(self.history.top.fd, fd, identity.id)
            finally:
                os.close(fd)
        except OSError:
            return

    def _groups(self) -> list[int]:
        if self.previous < 0:
            return []
        return qgroups.parents(self.history.top.fd, subvolumes.identify(self.previous).id)

    def _fill(self, fd: int) -> None:
        if self.source >= 0:
            stubs.mend(self.source, fd)
        else:
            self._fill_empty(fd)
        if self.previous >= 0:
            attributes.carry_properties(self.previous, fd)
            previous = subvolumes.identify(self.previous)
            qgroups.copy_limits(self.history.top.fd, previous.id, self.id)
            if self.source >= 0 and self._groups():
                qgroups.rescan(self.history.top.fd)

    def _fill_empty(self, fd: int) -> None:
        os.fchmod(fd, 0o755)
        if self.previous >= 0:
            attributes.copy(self.previous, fd)
        if self.is_root:
            skeleton.make(fd, self.previous)
