"""Declared directories whose changes persist, over the content of the base."""

from __future__ import annotations

import os
from binascii import crc32

from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import tree
from ephemeroot.hooks.operation import Persisted, field
from ephemeroot.hooks.operations.directories import make_in_root
from ephemeroot.hooks.store import nesting, seed
from ephemeroot.linux import mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

# Each of these ties the upper directory to one lower one: with a newer base, which is a
# new lower one, lookups would end in ESTALE (kernel, Documentation/filesystems/overlayfs.rst,
# "Changes to underlying filesystems").
_OPTIONS = ["index=off", "metacopy=off", "redirect_dir=off"]

_HELD = (
    (os.ST_NOSUID, mounts.MOUNT_ATTR_NOSUID),
    (os.ST_NODEV, mounts.MOUNT_ATTR_NODEV),
    (os.ST_NOEXEC, mounts.MOUNT_ATTR_NOEXEC),
)


def work_name(source: str) -> str:
    """The name of overlayfs's directory beside the upper directory *source* of a store."""
    return f".ephemeroot-work-{crc32(os.fsencode(source)):08x}"


class Overlay(Persisted):
    """Mount an overlay at ``path``: the store's ``source`` above, the root's below.

    The directory that overlayfs works in is beside ``source`` in the store. Nothing is
    seeded: what the store lacks shows through. A new upper directory takes after the
    root's; ``user``, ``group`` and ``mode`` replace these if they are configured.
    """

    KIND = "overlay"
    options: list[str] = field("strings", "options of the mount", default=[])
    label: str | None = field("text", "the SELinux policy's label for it", default=None)

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        return f"overlay directory {self.path} with {self.store}{options}"

    def execute(self, stage: Stage) -> str:
        if nesting.persists_with(stage, self):
            return self._persist_with_directory(stage)
        lower = self._open_lower(stage)
        if lower < 0:
            stage.in_effect[self.path] = self.store
            return "already mounted"
        try:
            self._have_upper(stage, lower)
            self._prepare_inside(stage)
            self._mount(stage.store(self.store), lower)
        finally:
            os.close(lower)
        stage.in_effect[self.path] = self.store
        return "mounted"

    def carry_over(self, stage: Stage, previous: int) -> str:
        """It is not seeded, but paths inside it in the same store need their parents."""
        inside = any(nesting.store_of(o) == self.store for o in stage.plan.nesting().inside(self))
        if not inside or nesting.was_through(stage, self, previous):
            return ""
        if tree.is_directory(stage.store(self.store), self.source):
            return ""
        try:
            lower = paths.open_beneath(previous, tree.resolve(previous, self.path), tree.DIRECTORY)
        except OSError:
            return ""  # nothing is inside it either
        try:
            self._have_upper(stage, lower)
        finally:
            os.close(lower)
        stage.seeded.add(self.path)
        return "created"

    def _persist_with_directory(self, stage: Stage) -> str:
        """Its directory is bound and shows the store: it needs no overlay of its own."""
        place = stage.resolve(self.path)
        stage.in_effect[self.path] = self.store
        if tree.is_directory(stage.root(), place):
            return "persists with its directory"
        user, group = self.user or 0, self.group or 0
        mode = 0o755 if self.mode is None else self.mode
        make_in_root(stage, place, (user, group, mode, self.label))
        return "created and persists with its directory"

    def _prepare_inside(self, stage: Stage) -> None:
        """Before the overlay is mounted: paths inside it in the same store are changed in the
        upper directory, which must not change under a mounted overlay.
        """
        if stage.plan.nesting().has_copies(self):
            stage.keep_bare()
        for operation in stage.plan.nesting().inside(self):
            if nesting.store_of(operation) == self.store:
                path = nesting.path_of(operation)
                try:
                    stage.prepared[path] = operation.prepare(stage)
                except (EphemerootError, OSError) as error:
                    stage.prepared[path] = error  # raised when its turn comes

    def _open_lower(self, stage: Stage) -> int:
        """The root's directory, made if there is none; -1 if something is mounted there."""
        place = stage.resolve(self.path)
        parent, name = tree.open_parent(stage.root(), place)
        try:
            if tree.is_mount_point(parent, name):
                return -1
            if not tree.exists(parent, name):
                tree.make_directory(parent, name, 0, 0, 0o755)
                stage.made.append(place)
            return paths.open_beneath(parent, name, tree.DIRECTORY)
        finally:
            os.close(parent)

    def _have_upper(self, stage: Stage, lower: int) -> None:
        store, parents = stage.store(self.store), stage.parents(self.store)
        if tree.is_directory(store, self.source):
            parents.remove(self.source)
            return
        status = os.fstat(lower)
        seed.make_directory(
            store,
            self.source,
            status.st_uid if self.user is None else self.user,
            status.st_gid if self.group is None else self.group,
            status.st_mode & 0o7777 if self.mode is None else self.mode,
            self.label,
        )

    def _mount(self, store: int, lower: int) -> None:
        set_, clear, own = mounts.split_options(self.options)
        if own:
            raise EphemerootError(f"{self.path}: an overlay cannot have the option {own[0]}")
        parent, name = tree.open_parent(store, self.source)
        try:
            upper = paths.open_beneath(parent, name, tree.DIRECTORY)
            try:
                work = self._open_work(store, parent)
                try:
                    mount = mounts.create_overlay(lower, upper, work, _OPTIONS, name=self.path)
                    flags = os.fstatvfs(upper).f_flag
                finally:
                    os.close(work)
            finally:
                os.close(upper)
        finally:
            os.close(parent)
        # An overlay asks its layers' superblocks, not their mounts: what keeps a store's
        # programs and devices from being used has to be said again.
        for held, flag in _HELD:
            if flags & held and not clear & flag:
                set_ |= flag
        try:
            mounts.set_flags(mount, set_=set_, clear=clear, private=True, name=self.path)
            mounts.attach(mount, lower, name=self.path)
        finally:
            os.close(mount)

    def _open_work(self, store: int, parent: int) -> int:
        """overlayfs's own directory, which root owns, because overlayfs deletes files in it."""
        name = work_name(self.source)
        place = f"{self.source.rpartition('/')[0]}/{name}".lstrip("/")
        if not tree.exists(parent, name):
            seed.make_directory(store, place, 0, 0, 0o700)
        work = paths.open_beneath(parent, name, tree.DIRECTORY)
        if os.fstat(work).st_uid != 0:
            os.close(work)
            raise EphemerootError(
                f"{name}, the work directory of the overlay {self.path}, is not owned by root",
                f"run 'rm -r {self.store}/{place}'",
            )
        return work
