"""Copying one directory with all entries, of any depth."""

from __future__ import annotations

import errno
import os
import stat

from ephemeroot.linux import attributes, inode_flags, paths, removal
from ephemeroot.linux import subvolume as subvolumes
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.layers import OPAQUE
from ephemeroot.linux.walk import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ephemeroot.linux.bounds import Meter
    from ephemeroot.linux.layers import Layers

    class Copier(Protocol):
        """The part of ``copying.Copier`` that copies entries other than directories."""

        entries: int
        exhausted: OutOfBounds | None
        flattened: list[str]
        meter: Meter
        of_the_whole: tuple[int, ...]
        partial: bool
        skipped: Callable[[str, str], None] | None

        def copy_leaf(
            self, source: int, name: str, target: int, new_name: str, path: str,
            place: tuple[int, str] | None = None,
        ) -> None: ...  # fmt: skip


# Bounds that one entry may exceed while the next does not.
_OF_AN_ENTRY = ("file_bytes", "depth")


class Tree:
    """The copy of one directory of any depth, with few open descriptors.

    With *layers*, the source is an overlay. Entries that only its lower layer has are copied from
    that layer, as a tree *inside* this one; *base* is the target of the outer tree and the path in
    it.
    """

    __slots__ = (
        "base", "copier", "here", "inside", "layers", "left", "source", "target", "there",
    )  # fmt: skip

    def __init__(
        self, copier: Copier, source: int, name: str, target: int, new_name: str, *,
        subvolume: bool, layers: Layers | None = None, inside: str = "",
        base: tuple[int, str] | None = None,
    ) -> None:  # fmt: skip
        self.copier = copier
        self.target = target
        self.layers = layers
        self.inside = inside
        self.base = base or (target, "")
        self.here = Walk(source, name)
        self.left: list[list[str]] = []
        self.there: Walk | None = None
        try:
            self.left.append(self._names())
            if subvolumes.is_one(self.here.fd):
                if subvolume and subvolumes.create(target, new_name):
                    self.there = Walk(target, new_name)
                    os.fchmod(self.there.fd, 0o700)
                else:
                    copier.flattened.append("")
            if self.there is None:
                os.mkdir(new_name, 0o700, dir_fd=target)
                self.there = Walk(target, new_name)
            _require_new(self.there.fd)
            inode_flags.begin(self.here.fd, self.there.fd)
            copier.entries += 1
        except BaseException:
            self._close()
            raise

    def copy(self) -> None:
        """Copy everything. Raises the errors of ``Copier``."""
        try:
            while True:
                if self.left[-1]:
                    self._one(self.left[-1].pop())
                    continue
                self._finish()
                if len(self.left) == 1:
                    return
                self._leave()
        finally:
            self._close()

    def _close(self) -> None:
        self.here.close()
        if self.there is not None:
            self.there.close()

    @property
    def _new(self) -> Walk:
        if self.there is None:
            raise ValueError("the copy has not begun")
        return self.there

    def _path(self, name: str = "") -> str:
        inside = f"{self.inside}/{self.here.path.partition('/')[2]}".strip("/")
        return f"{inside}/{name}".strip("/") if name else inside

    def _names(self) -> list[str]:
        """The names in the present directory; counts each of them."""
        names: list[str] = []
        with paths.entries(self.here.fd) as found:
            for entry in found:
                self.copier.meter.count_entry(self._path())
                if len(names) % 1024 == 0:
                    self.copier.meter.check_time(self._path())
                names.append(entry.name)
        if self.layers is not None:
            hidden = set(self.layers.whiteouts(self._path()))
            names += sorted(hidden.difference(names))
        return names

    def _one(self, name: str) -> None:
        copier = self.copier
        try:
            copier.meter.check_time(self._path(name))
            if self.layers is not None and self._from_lower(name, self.layers):
                return
            status = os.stat(name, dir_fd=self.here.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._enter(name, status)
            else:
                self._leaf(name)
        except OutOfBounds as reason:
            if copier.skipped is None or not (copier.partial or reason.bound in _OF_AN_ENTRY):
                raise
            if reason.bound not in _OF_AN_ENTRY and copier.exhausted is None:
                copier.exhausted = reason
            copier.skipped(self._path(name), reason.reason)
            if reason.bound in ("deadline", "entries"):
                self._leave_out_rest(reason)
        except OSError as error:
            if copier.skipped is None or error.errno in copier.of_the_whole:
                raise
            copier.skipped(self._path(name), error.strerror or str(error))

    def _leave_out_rest(self, reason: OutOfBounds) -> None:
        """Leave out all remaining entries after the deadline or the limit of entries, with a report
        for each directory.
        """
        inside = self._path().split("/") if self._path() else []
        for depth, names in enumerate(self.left):
            if names and self.copier.skipped is not None:
                count = "1 entry" if len(names) == 1 else f"{len(names)} entries"
                path = "/".join(inside[:depth])
                self.copier.skipped(path, f"{count} in it left out: {reason.reason}")
                names.clear()

    def _from_lower(self, name: str, layers: Layers) -> bool:
        """Copy the entry *name* of the lower layer if only that layer has it; return whether it was
        copied. The overlay may not show it, and its inode numbers differ from the layer's.
        """
        path = self._path(name)
        status = layers.from_lower(path)
        if status is None:
            return False
        lower, last = layers.open_lower_parent(path)
        try:
            if not stat.S_ISDIR(status.st_mode):
                self._leaf(last, lower)
            else:
                depth = self.here.depth + 1
                self.copier.meter.check_depth(depth, path)
                place = (self.base[0], f"{self.base[1]}/{self._new.path}".strip("/"))
                Tree(
                    self.copier, lower, last, self._new.fd, name,
                    subvolume=False, inside=path, base=place,
                ).copy()  # fmt: skip
        finally:
            os.close(lower)
        return True

    def _leaf(self, name: str, source: int | None = None) -> None:
        new = self._new
        here = self.here.fd if source is None else source
        try:
            place = (self.base[0], f"{self.base[1]}/{new.path}".strip("/"))
            self.copier.copy_leaf(here, name, new.fd, name, self._path(name), place)
        except (OSError, OutOfBounds):
            if self.copier.skipped is not None:
                _discard(new.fd, name)
            raise

    def _enter(self, name: str, status: os.stat_result) -> None:
        new = self._new
        self.copier.meter.check_depth(self.here.depth + 1, self._path(name))
        try:
            self.here.enter(name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            depth = new.depth
            try:
                self._make(name, subvolume=False)
                os.fchown(new.fd, status.st_uid, status.st_gid)
                os.fchmod(new.fd, stat.S_IMODE(status.st_mode))
            except BaseException:
                self._abandon(name, depth)
                raise
            new.leave()
            return
        depth = new.depth
        try:
            names = self._names()
            self._make(name, subvolume=subvolumes.is_one(self.here.fd))
            inode_flags.begin(self.here.fd, new.fd)
        except BaseException:
            self.here.climb()
            self._abandon(name, depth)
            raise
        self.left.append(names)

    def _abandon(self, name: str, depth: int) -> None:
        """The directory *name* is incomplete: continue at *depth* with the next entries."""
        new = self._new
        if new.depth > depth:
            new.climb()
        if self.copier.skipped is not None:
            removal.remove(new.fd, name, subvolumes=True, unlock=True)

    def _make(self, name: str, *, subvolume: bool) -> None:
        new = self._new
        made = subvolume and subvolumes.create(new.fd, name)
        if not made:
            os.mkdir(name, 0o700, dir_fd=new.fd)
        new.enter(name)
        if made:
            os.fchmod(new.fd, 0o700)  # only root can have entered it, inside the workshop
        elif subvolume:
            self.copier.flattened.append(self._path())
        _require_new(new.fd)
        self.copier.entries += 1

    def _finish(self) -> None:
        """Set the attributes of the directory after its last entry."""
        skipped, failed = self.copier.skipped, None
        if skipped is not None:
            path = self._path()

            def failed(name: str, error: OSError) -> None:
                skipped(path, error.strerror or str(error))

        old, new = self.here.fd, self._new.fd
        attributes.copy(old, new, failed)
        if self.layers is not None and self.layers.is_opaque(self._path()):
            try:
                os.setxattr(new, OPAQUE, b"y")
            except OSError as error:  # the copy is in an overlay, of a kernel before Linux 6.7
                if failed is None:
                    raise
                failed(OPAQUE, error)
        try:
            inode_flags.finish(old, new)
        except OSError as error:
            if failed is None:
                raise
            failed("", error)
        if subvolumes.is_read_only(old) and subvolumes.is_one(new):
            subvolumes.set_read_only(new, True)

    def _leave(self) -> None:
        """Go up. Entries in directories that another process has moved away are not copied."""
        self.left.pop()
        path = self._path()
        names = self.here.climb()
        self._new.leave()
        for _ in names[1:]:
            self.left.pop()
            self._new.leave()
        if len(names) > 1:
            if self.copier.skipped is None:
                raise OSError(errno.EBUSY, "moved by another process during the copy", path)
            self.copier.skipped(self._path(names[0]), "moved by another process during the copy")


def _require_new(fd: int) -> None:
    """Require that the directory is the one just created: root's, closed to all others."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o777 != 0o700:
        raise OSError(errno.EBUSY, "replaced while it was created")


def _discard(directory: int, name: str) -> None:
    removal.remove(directory, name, unlock=True)
