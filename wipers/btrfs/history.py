"""The history of a btrfs root: what lies in old-roots, and how something gets there."""

from __future__ import annotations

import os
import time

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import immutable, mounts, paths
from ephemeroot.wipers import marks, names, oldroot, retire
from ephemeroot.wipers.btrfs import directories, leftovers, qgroups, subvolumes, toplevel
from ephemeroot.wipers.btrfs.leftovers import InPlace
from ephemeroot.wipers.history import History, lock, require_mountable
from ephemeroot.wipers.oldroot import Facts, OldRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.btrfs.leftovers import Leftover
    from ephemeroot.wipers.btrfs.present import Present
    from ephemeroot.wipers.btrfs.toplevel import Toplevel
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.retention import Policy

_MOUNTED_FOR = 0.2  # seconds for which mountinfo is believed


class SubvolumeHistory(History):
    """The old roots of the root subvolume ``root`` (paths are relative to the top level).

    Holds a lock on old-roots until ``close``. ``create`` makes a missing old-roots;
    otherwise a missing one is an empty history. Raises ``Refused`` if old-roots cannot
    be one, ``Locked`` if another run has the lock. With ``own`` the top level is
    unmounted by ``close`` too. ``base`` is what fresh roots are snapshots of, ``live`` where
    the present root is mounted, if it is.
    """

    SNAPSHOTS = True

    __slots__ = (
        "_mounted", "_mounted_at", "base", "live", "old", "old_roots", "own", "parent", "root",
        "top",
    )  # fmt: skip

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
        base: str | None = None,
        live: str | None = None,
        system: str = "",
    ) -> None:
        super().__init__(old_roots, policy, min_free, system)
        self.base = base
        self.live = live
        self.top = top
        self.root = root
        self.old_roots = old_roots
        self.own = own
        self.old = -1
        self._mounted: set[str] = set()
        self._mounted_at = 0.0
        try:
            self.parent = directories.open_real(top.fd, self.beside, "the directory of the root")
        except FileNotFoundError:
            raise Refused(f"the directory of the subvolume {root!r} does not exist") from None
        try:
            self._open_old_roots(create)
        except BaseException:
            self.close()
            raise

    @property
    def beside(self) -> str:
        """The directory that the root lies in; empty for the top level."""
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
                    "'btrfs property set -ts PATH ro false' makes it writable",
                )
        elif here.st_ino == subvolumes.STUB_INODE or here.st_dev != os.fstat(self.parent).st_dev:
            raise Refused(
                f"old-roots {self.old_roots!r} lies in another subvolume than {self.root!r}",
                "name a directory beside the root, or one that does not exist yet",
            )

    def close(self) -> None:
        for fd in (self.old, self.parent):
            if fd >= 0:
                os.close(fd)
        self.old = self.parent = -1
        if self.own:
            self.top.close()

    def __enter__(self) -> SubvolumeHistory:
        return self

    # What is there

    def entries(self) -> list[OldRoot]:
        """Everything in old-roots, and what was retired in place, by name."""
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
        """What an interrupted run of this system left, each with the directory it lies in."""
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
        """The open directory that *entry* lies in."""
        return self.parent if isinstance(entry, InPlace) else self.old

    def open(self, entry: OldRoot) -> int:
        """Open *entry*, which must still be the subvolume that was listed.

        Raises ``EphemerootError`` if it is not.
        """
        fd = directories.subvolume(self.directory(entry), entry.text)
        if fd < 0:
            raise EphemerootError(f"{self.path(entry)} is no subvolume")
        try:
            if not entry.serial or subvolumes.identify(fd).id != entry.serial:
                raise EphemerootError(f"{self.path(entry)} is not the subvolume it was")
            return fd
        except BaseException:
            os.close(fd)
            raise

    def state(self, entry: OldRoot) -> str:
        """``marks.NEW``, ``BOOT_COMPLETE`` or ``UNMARKED`` (not made by a wipe)."""
        fd = self.open(entry)
        try:
            return marks.state(fd, subvolumes.identify(fd).uuid)
        finally:
            os.close(fd)

    def is_mounted(self, path: str) -> bool:
        """Whether *path* (from the top), or something in it, is mounted somewhere."""
        now = time.monotonic()
        if now - self._mounted_at > _MOUNTED_FOR:
            self._mounted = self.top.mounted()
            self._mounted_at = now
        return toplevel.is_mounted(path, self._mounted)

    def facts(self, entry: OldRoot) -> Facts:
        fd = self.open(entry)
        try:
            info = subvolumes.library().subvolume_info(mounts.fd_path(fd))
            state = marks.state(fd, subvolumes.identify(fd).uuid)
        finally:
            os.close(fd)
        size, exclusive = qgroups.usage(self.top.fd, entry.serial)
        return Facts(made=info.otime, state=state, size=size, exclusive=exclusive)

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        from ephemeroot.wipers.btrfs import exclusive

        known = qgroups.usage(self.top.fd, entry.serial)[1]
        if known is not None:
            return known
        fd = self.open(entry)
        try:
            return exclusive.measure(self.top.fd, fd, deadline)
        finally:
            os.close(fd)

    # Looking into it

    def mount(self, entry: OldRoot) -> int:
        require_mountable(entry)
        fd = self.open(entry)
        try:
            return subvolumes.mount(fd, self.path(entry))
        finally:
            os.close(fd)

    def missing_base(self) -> str:
        if self.base is None:
            return ""
        try:
            fd = subvolumes.open_directory(self.top.fd, self.base)
        except FileNotFoundError:
            return f"the base {self.base} does not exist"
        except OSError as error:
            return f"the base {self.base} cannot be opened: {error.strerror}"
        try:
            return "" if subvolumes.is_subvolume(fd) else f"the base {self.base} is not a subvolume"
        finally:
            os.close(fd)

    def mount_base(self) -> int | None:
        if self.base is None:
            return None
        reason = self.missing_base()
        if reason:
            raise EphemerootError(reason, "run 'ephemeroot base create'")
        fd = subvolumes.open_directory(self.top.fd, self.base)
        try:
            return subvolumes.mount(fd, self.base)
        finally:
            os.close(fd)

    def mount_fresh(self) -> int | None:
        """A mount of the subvolume that the present root is a snapshot of."""
        with self._present() as present:
            origin = present.origin()
            if origin < 0 and self.base is not None:
                raise EphemerootError(
                    f"no boot has made this root from the base {self.base}",
                    "compare with --against base",
                )
            if origin < 0:
                return None
            try:
                present.require_unchanged(origin)
                return subvolumes.mount(origin, self.root)
            finally:
                os.close(origin)

    def changed_since(self) -> Callable[[str, int], bool] | None:
        with self._present() as present:
            # What was written a moment ago is not in the tree yet (fs/btrfs/delayed-inode.c).
            self.commit()
            found = present.changed_since()
        return None if found is None else lambda path, inode: inode in found

    def _present(self) -> Present:
        from ephemeroot.wipers.btrfs.present import Present

        if self.live is None:
            raise EphemerootError(f"{self.root} is not mounted")
        return Present(self.top, self.live)

    # What retention asks, and what becomes of an old root

    def space(self) -> tuple[int, int]:
        return self.top.free()

    def settle(self, deadline: float) -> None:
        self.commit()
        waiting = subvolumes.cleaning(self.top.fd)
        while waiting and time.monotonic() < deadline:
            time.sleep(0.02)
            waiting &= subvolumes.cleaning(self.top.fd)
        self.commit()  # what was cleaned is free only after one more

    def commit(self) -> None:
        self.top.commit()

    def prove(self, entry: OldRoot) -> None:
        """It is what was listed, and neither it nor what is in it is mounted, or the default."""
        fd = self.open(entry)
        try:
            self._prove_unused(entry, fd)
        finally:
            os.close(fd)

    def delete(self, entry: OldRoot) -> None:
        fd = self.open(entry)
        try:
            self._prove_unused(entry, fd)
            try:
                subvolumes.delete_tree(self.top.fd, fd, entry.serial)
            except PermissionError as error:
                raise immutable.explained(error, self.old) from None
        finally:
            os.close(fd)

    def _prove_unused(self, entry: OldRoot, fd: int) -> None:
        label, serial = entry.label, entry.serial
        ids = {serial, *(inner for _, inner in subvolumes.nested(fd, serial))}
        if subvolumes.default(self.top.fd) in ids:
            raise EphemerootError(
                f"old {self.NOUN} {label} is, or holds, the default subvolume of the filesystem",
                "see 'btrfs subvolume set-default'",
            )
        if self.is_mounted(self.path(entry)):
            raise EphemerootError(f"old {self.NOUN} {label} is mounted", "unmount it first")

    def rename(self, entry: OldRoot, name: Name) -> str:
        """Give *entry* another *name* of ours; returns the name it got."""
        self.open_and_close(entry)
        if not isinstance(entry, InPlace):
            return retire.into_history(self.old, entry.text, self.old, name, self.free)
        target = entry.leftover.renamed(name).text
        flags = paths.RENAME_NOREPLACE
        immutable.rename(self.parent, entry.text, self.parent, target, how=flags)
        return str(name)

    def open_and_close(self, entry: OldRoot) -> None:
        """Prove that *entry* is what was listed."""
        os.close(self.open(entry))
