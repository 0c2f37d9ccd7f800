"""The history of a btrfs root: looking into old roots, and deleting and renaming them."""

from __future__ import annotations

import os
import time

from ephemeroot.errors import EphemerootError
from ephemeroot.linux import immutable, mounts, paths
from ephemeroot.wipers import marks, retire
from ephemeroot.wipers.btrfs import qgroups, subvolumes, toplevel
from ephemeroot.wipers.btrfs.leftovers import InPlace
from ephemeroot.wipers.btrfs.old_roots import OldRoots
from ephemeroot.wipers.history import require_mountable
from ephemeroot.wipers.oldroot import Facts, OldRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ephemeroot.wipers.btrfs.present import Present
    from ephemeroot.wipers.btrfs.toplevel import Toplevel
    from ephemeroot.wipers.names import Name
    from ephemeroot.wipers.retention import Policy

_MOUNTED_FOR = 0.2  # seconds for which mountinfo is believed


class SubvolumeHistory(OldRoots):
    """The old roots of a root subvolume: their content, and what becomes of them.

    ``base`` is what new roots are snapshots of, ``live`` where the present root is mounted, if it
    is; everything else as for ``OldRoots``.
    """

    SNAPSHOTS = True

    __slots__ = ("_mounted", "_mounted_at", "base", "live")

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
        self.base = base
        self.live = live
        self._mounted: set[str] = set()
        self._mounted_at = 0.0
        super().__init__(
            top, root, old_roots,
            create=create, own=own, policy=policy, min_free=min_free, system=system,
        )  # fmt: skip

    def __enter__(self) -> SubvolumeHistory:
        return self

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
                    f"this root was not made from the base {self.base} by a boot",
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
            # Recent writes are not in the tree yet (fs/btrfs/delayed-inode.c).
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
        self.commit()  # cleaned space is free only after another commit

    def commit(self) -> None:
        self.top.commit()

    def prove(self, entry: OldRoot) -> None:
        """Prove that it is the listed one, that no part of it is mounted, and that it is not the
        default.
        """
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
                f"old {self.NOUN} {label} is or contains the default subvolume of the filesystem",
                "choose another default with 'btrfs subvolume set-default'",
            )
        if self.is_mounted(self.path(entry)):
            raise EphemerootError(f"old {self.NOUN} {label} is mounted", "unmount it first")

    def rename(self, entry: OldRoot, name: Name) -> str:
        """Give *entry* another *name* of Ephemeroot's; returns the name it got."""
        self.open_and_close(entry)
        if not isinstance(entry, InPlace):
            return retire.into_history(self.old, entry.text, self.old, name, self.free)
        target = entry.leftover.renamed(name).text
        flags = paths.RENAME_NOREPLACE
        immutable.rename(self.parent, entry.text, self.parent, target, how=flags)
        return str(name)

    def open_and_close(self, entry: OldRoot) -> None:
        """Prove that *entry* is the listed one."""
        os.close(self.open(entry))
