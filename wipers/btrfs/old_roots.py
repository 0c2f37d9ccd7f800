"""Where the old roots of a btrfs root are, and under which names."""

from __future__ import annotations

import os

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import paths
from ephemeroot.wipers import marks, names, oldroot
from ephemeroot.wipers.btrfs import directories, leftovers, subvolumes
from ephemeroot.wipers.btrfs.leftovers import InPlace
from ephemeroot.wipers.history import History, lock
from ephemeroot.wipers.oldroot import OldRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.wipers.btrfs.leftovers import Leftover
    from ephemeroot.wipers.btrfs.toplevel import Toplevel
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.retention import Policy


class OldRoots(History):
    """The directory of the old roots of the subvolume ``root`` (paths are relative to the top
    level), and the directory that contains ``root``: the entries there and their owners.

    Holds a lock on old-roots until ``close``. ``create`` makes a missing old-roots;
    otherwise a missing one is an empty history. Raises ``Refused`` if old-roots cannot
    be one, ``Locked`` if another run has the lock. With ``own`` the top level is
    unmounted by ``close`` too.
    """

    __slots__ = ("old", "old_roots", "own", "parent", "root", "top")

    def __init__(
        self,
        top: Toplevel,
        root: str,
        old_roots: str,
        *,
        create: bool,
        own: bool = False,
        policy: Policy | None = None,
        min_free: int = 0,
        system: str = "",
    ) -> None:
        super().__init__(old_roots, policy, min_free, system)
        self.top = top
        self.root = root
        self.old_roots = old_roots
        self.own = own
        self.old = -1
        try:
            self.parent = directories.open_real(top.fd, self.beside, "the directory of the root")
        except FileNotFoundError:
            raise Refused(
                f"the directory of the subvolume {root!r} does not exist",
                "'btrfs subvolume list /' shows the subvolumes that can be named",
            ) from None
        try:
            self._open_old_roots(create)
        except BaseException:
            self.close()
            raise

    @property
    def beside(self) -> str:
        """The directory that the root is in; empty for the top level."""
        return self.root.rpartition("/")[0]

    @property
    def root_name(self) -> str:
        return self.root.rpartition("/")[2]

    def _open_old_roots(self, create: bool) -> None:
        try:
            self.old = directories.open_real(self.top.fd, self.old_roots, "old-roots")
        except FileNotFoundError:
            if not create:
                return
            # Root's alone: set-user-id programs grow old in there.
            paths.make_directories(self.top.fd, self.old_roots, 0o700)
            self.old = directories.open_real(self.top.fd, self.old_roots, "old-roots")
        self._check_old_roots()
        lock(self.old, self.old_roots)
        if create:
            self.require_own()

    def owner(self) -> str:
        return marks.system(self.old) if self.old >= 0 else ""

    def set_owner(self, system: str) -> None:
        if self.old >= 0:
            marks.set_system(self.old, system)

    def _check_old_roots(self) -> None:
        """A directory of the subvolume that has the root in it, or a subvolume itself."""
        here = os.fstat(self.old)
        if here.st_ino == subvolumes.ROOT_INODE:
            if subvolumes.is_read_only(self.old):
                raise Refused(
                    f"old-roots {self.old_roots!r} is a read-only subvolume",
                    "run 'btrfs property set -ts PATH ro false' to make it writable",
                )
        elif here.st_ino == subvolumes.STUB_INODE or here.st_dev != os.fstat(self.parent).st_dev:
            raise Refused(
                f"old-roots {self.old_roots!r} is in another subvolume than {self.root!r}",
                "name a directory beside the root, or one that does not exist yet",
            )

    def close(self) -> None:
        for fd in (self.old, self.parent):
            if fd >= 0:
                os.close(fd)
        self.old = self.parent = -1
        if self.own:
            self.top.close()

    def entries(self) -> list[OldRoot]:
        """Everything in old-roots, and old roots retired in place, by name."""
        found = []
        if self.old >= 0:
            for text, serial in directories.names_and_serials(self.old):
                leftover = leftovers.parse(self.root_name, text)
                if leftover is None or not leftover.is_of(self.system):
                    found.append(oldroot.classify(text, serial))
        found.extend(self._in_place())
        return sorted(self.owned(found), key=lambda entry: (entry.kind, entry.label))

    def _in_place(self) -> list[InPlace]:
        """The old roots that stay beside the root, under their temporary names."""
        found = []
        for directory, leftover in self._all_leftovers():
            fd = directories.subvolume(directory, leftover.text) if directory == self.parent else -1
            if fd < 0:
                continue
            try:
                identity = subvolumes.identify(fd)
                if identity.uuid == leftover.uuid and subvolumes.stays_in_place(fd, identity):
                    found.append(InPlace(leftover, identity.id))
            finally:
                os.close(fd)
        return found

    def leftovers(self) -> list[tuple[int, Leftover]]:
        """What an interrupted run of this system left, each with the directory it is in."""
        return [pair for pair in self._all_leftovers() if pair[1].is_of(self.system)]

    def _all_leftovers(self) -> list[tuple[int, Leftover]]:
        """The same, and what other systems left that had a root of this name."""
        found = []
        for directory in (self.parent, self.old):
            if directory >= 0:
                for text, _ in directories.names_and_inodes(directory):
                    leftover = leftovers.parse(self.root_name, text)
                    if leftover is not None:
                        found.append((directory, leftover))
        return found

    def free(self, wanted: Name, own: Leftover | None = None) -> Name:
        """*wanted*, or with a number, so that nothing here but *own* has its identity."""
        texts = {leftover.text: leftover for _, leftover in self._all_leftovers()}
        if own is not None:
            texts.pop(own.text, None)
        taken = {leftover.name.identity for leftover in texts.values()}
        if self.old >= 0:
            for text, _ in directories.names_and_inodes(self.old):
                name = names.parse(text)
                if name is not None:
                    taken.add(name.identity)
        return names.free(wanted, taken)

    def seen(self) -> int:
        """The latest time that a synchronised clock showed here; 0 if none ever did."""
        return marks.seen(self.old) if self.old >= 0 else 0

    def record_seen(self, now: int) -> None:
        if self.old >= 0:
            marks.set_seen(self.old, now)

    def first(self) -> str:
        return marks.first(self.old) if self.old >= 0 else ""

    def record_first(self, label: str) -> None:
        marks.set_first(self.old, label)

    def path(self, entry: OldRoot) -> str:
        """Where *entry* lies, from the top of the filesystem."""
        directory = self.beside if isinstance(entry, InPlace) else self.old_roots
        return f"{directory}/{entry.text}".strip("/")

    def directory(self, entry: OldRoot) -> int:
        """The open directory that *entry* is in."""
        return self.parent if isinstance(entry, InPlace) else self.old

    def open(self, entry: OldRoot) -> int:
        """Open *entry*, which must still be the subvolume that was listed.

        Raises ``EphemerootError`` if it is not.
        """
        fd = directories.subvolume(self.directory(entry), entry.text)
        if fd < 0:
            raise EphemerootError(f"{self.path(entry)} is not a subvolume")
        try:
            if not entry.serial or subvolumes.identify(fd).id != entry.serial:
                raise EphemerootError(f"{self.path(entry)} is another subvolume than before")
            return fd
        except BaseException:
            os.close(fd)
            raise
