"""What an interrupted rotation left, and what becomes of it.

Each leftover is asked one question: is it the subvolume whose UUID is in its name? Then
it is a previous root, and goes where it was going. Anything else under such a name is
a fresh root that never got its place.
"""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import immutable, paths
from ephemeroot.step import Step
from ephemeroot.wipers import marks
from ephemeroot.wipers.btrfs import directories, retirement, subvolumes
from ephemeroot.wipers.btrfs.leftovers import Leftover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.history import SubvolumeHistory


class Recovery(Step):
    """Recover one *leftover*, which is in the open *directory*.

    *default_to* is the id that the default subvolume gets if the leftover is the default;
    0 to leave that alone. ``execute`` returns the change in one line, or ``""`` if
    the leftover rests where it is for good.
    """

    __slots__ = ("default_to", "directory", "history", "leftover")

    def __init__(
        self, history: SubvolumeHistory, directory: int, leftover: Leftover, default_to: int = 0
    ) -> None:
        self.history = history
        self.directory = directory
        self.leftover = leftover
        self.default_to = default_to

    def describe(self) -> str:
        return f"recover {self.leftover.text}"

    def execute(self) -> str:
        text = self.leftover.text
        fd = directories.subvolume(self.directory, text)
        if fd < 0:
            raise EphemerootError(f"{text} is not a subvolume: not touched")
        try:
            if self.history.is_mounted(self._path):
                raise EphemerootError(f"{text} is mounted: not touched")
            identity = subvolumes.identify(fd)
            if identity.uuid != self.leftover.uuid:
                return self._fresh(fd, identity)
            return "" if subvolumes.stays_in_place(fd, identity) else self._previous(identity)
        finally:
            os.close(fd)

    @property
    def _path(self) -> str:
        history = self.history
        place = history.old_roots if self.directory == history.old else history.beside
        return f"{place}/{self.leftover.text}".strip("/")

    def _previous(self, identity: subvolumes.Identity) -> str:
        top = self.history.top.fd
        if self.default_to and subvolumes.default(top) == identity.id:
            subvolumes.set_default(top, self.default_to)
        retired = retirement.retire(self.history, self.directory, self.leftover)
        return f"retired the previous {self.history.NOUN} as {retired}"

    def _fresh(self, fd: int, identity: subvolumes.Identity) -> str:
        text = self.leftover.text
        if marks.state(fd, identity.uuid) == marks.NEW and not subvolumes.nested(fd, identity.id):
            subvolumes.delete_open(self.history.top.fd, fd, identity.id)
            return f"deleted {text}, a fresh {self.history.NOUN} that never became the root"
        # It has been used, or the run ended before it was marked: it is kept for a while.
        name = self.leftover.name.changed(unused=True, keep=False)
        # Its own UUID is in its name, so after another power cut it is a previous root.
        name = self.history.free(name, self.leftover)
        unused = Leftover(
            self.leftover.root, name, identity.uuid, read_only=False, system=self.leftover.system
        )
        immutable.rename(
            self.directory, text, self.directory, unused.text, how=paths.RENAME_NOREPLACE
        )
        retired = retirement.retire(self.history, self.directory, unused)
        noun = self.history.NOUN
        return f"retired {text}, a fresh {noun} that never became the root, as {retired}"
