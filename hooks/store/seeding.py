"""One declared path on its way into a store: copied aside, made durable, put in place.

The copy is made in the store's own directory for that, or in a workshop beside its place where no
rename leads there from that directory. What a power cut leaves of it is swept by the next boot.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from binascii import crc32

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import limits, omission, records, tree
from ephemeroot.hooks.omission import Omission, adopt_line, cannot_take, takes_nothing
from ephemeroot.hooks.records import STATE
from ephemeroot.hooks.store import nesting, overlaid
from ephemeroot.linux import (
    bounds,
    copying,
    immutable,
    kernel,
    layers,
    paths,
    removal,
    subvolume,
    workshop,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage

    Owner = tuple[int | None, int | None, int | None]

SEEDING = "seeding"
"""The directory of unfinished copies, below the store's own records."""

_COPY = "copy"


class NotSeeded(EphemerootError):
    """A declared path cannot be copied into its store, and is not to be given up."""


class Seeding:
    """One declared path on its way into a store."""

    __slots__ = ("aside", "left_out", "ours", "owner", "path", "source", "stage", "store_path")

    def __init__(
        self,
        stage: Stage,
        path: str,
        store_path: str,
        source: str,
        owner: Owner,
        ours: list[str],
        aside: str = "",
    ) -> None:
        self.aside = aside
        self.ours = ours
        self.stage = stage
        self.path = path
        self.store_path = store_path
        self.source = source
        self.owner = owner
        self.left_out = Omission(path, store_path, source)

    def run(self, parent: int, name: str) -> str:
        """Copy the entry *name* of the open *parent*; see ``seed.seed``."""
        try:
            return self._copy(parent, name)
        except OSError as error:
            if takes_nothing(error):
                raise cannot_take(self.store_path, self.path, error) from error
            reason = error.strerror or str(error)
            if not self._may_be_left_out(parent, name):
                raise NotSeeded(
                    f"cannot copy {self.path} to the store {self.store_path}: {reason}",
                    adopt_line(self.path),
                ) from error
        except bounds.OutOfBounds as error:
            whole = not self.stage.allowance.partial and error.bound not in ("file_bytes", "depth")
            if whole or not self._may_be_left_out(parent, name):
                raise self._too_much(error) from None
            reason = error.reason
        omissions = self.stage.allowance.omissions
        if omissions is None:
            raise AssertionError("an entry was left out of a path that must be complete")
        omissions.append(Omission(self.path, self.store_path, self.source, reason))
        return ""

    def _may_be_left_out(self, parent: int, name: str) -> bool:
        """Whether all of the path may stay behind in an old root. The content of
        a user's file must not prevent the wipe; root's own files are never left out.
        """
        allowance = self.stage.allowance
        if allowance.omissions is None:
            return False
        if allowance.partial:
            return True
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid != 0
        except OSError:
            return False

    def _too_much(self, error: bounds.OutOfBounds) -> Refused:
        limit = self.stage.plan.seed_limit >> 20
        reason = {
            "bytes_copied": f"it is larger than the seed limit of {limit} MiB",
            "file_bytes": f"it is larger than the seed limit of {limit} MiB",
        }.get(error.bound, error.reason)
        return Refused(
            f"cannot seed {self.path} into the store {self.store_path}: {reason}",
            adopt_line(self.path),
        )

    def _copy(self, parent: int, name: str) -> str:
        stage, allowance = self.stage, self.stage.allowance
        store = stage.store(self.store_path)
        copier = copying.Copier(
            limits.bounds(stage.plan.seed_limit, allowance.deadline),
            skipped=None if allowance.omissions is None else self.left_out.add,
            partial=allowance.partial,
            of_the_whole=omission.of_the_whole(),
            layers=overlaid.of(stage, self.path),
        )
        place, new_name = tree.open_parent(store, self.source)
        try:
            seeding = records.open_folder(store, SEEDING)
            try:
                if workshop.can_rename(seeding, place):
                    self._make(copier, parent, name, seeding, place, new_name)
                else:
                    self._make_beside(copier, parent, name, seeding, place, new_name)
            finally:
                os.close(seeding)
        finally:
            os.close(place)
        from ephemeroot import amounts  # most boots seed nothing

        stage.seeded.add(self.path)
        entries = "1 entry" if copier.entries == 1 else f"{copier.entries} entries"
        result = f"seeded, {entries}, {amounts.size(copier.copied + copier.shared)}"
        if self.left_out.count and allowance.omissions is not None:
            allowance.omissions.append(self.left_out)
            result += f", {self.left_out.count} left out"
        if copier.flattened:
            result += f", {subvolume.flattened(copier.flattened, self.path)}"
        return result

    def _make(
        self, copier: copying.Copier, parent: int, name: str, seeding: int, place: int,
        new_name: str,
    ) -> None:  # fmt: skip
        """Make the copy in the store's own directory."""
        temporary = f"{crc32(os.fsencode(self.source)):08x}"
        if not _clear(seeding, temporary):
            raise OSError(errno.EBUSY, "an unfinished copy of an earlier boot is not removed yet")
        try:
            copier.copy(parent, name, seeding, temporary)
            self._finish(seeding, temporary)
            if self.source in self.stage.parents(self.store_path):
                self._fill_parent(seeding, temporary, place, new_name)
            else:
                self._make_way(place, new_name, seeding, f"{temporary}.old")
                how = paths.RENAME_NOREPLACE
                immutable.rename(seeding, temporary, place, new_name, how=how)
                if self.aside:
                    _remove_quietly(seeding, f"{temporary}.old")
        except (OSError, bounds.OutOfBounds):
            _remove_quietly(seeding, temporary)
            raise

    def _finish(self, directory: int, name: str) -> None:
        _give(directory, name, self.owner)
        self._drop_ours(directory, name)
        self._hide_base(directory, name)
        kernel.sync_filesystem(directory)

    def _fill_parent(self, directory: int, name: str, place: int, new_name: str) -> None:
        """A directory that the store has only as a parent gets what it lacks of the copy. The
        record of it changes last: until then the next boot completes the rest.
        """
        parents = self.stage.parents(self.store_path)
        parents.fill(directory, name, place, new_name, self.source)
        kernel.sync_filesystem(directory)
        parents.remove(self.source)

    def _drop_ours(self, workshop: int, name: str) -> None:
        """What the persistence stage made in the directory is not content: a link into the store
        would lead to itself there, and an empty file was a place to bind on.
        """
        for path in self.ours:
            try:
                parent, last = tree.open_parent(workshop, f"{name}/{path}")
            except OSError:
                continue
            try:
                status = os.stat(last, dir_fd=parent, follow_symlinks=False)
                itself = f"{self.store_path}/{self.source}/{path}"
                empty = stat.S_ISREG(status.st_mode) and not status.st_size
                if empty or tree.links_to(parent, last, itself):
                    os.unlink(last, dir_fd=parent)
            except FileNotFoundError:
                pass
            finally:
                os.close(parent)

    def _hide_base(self, workshop: int, name: str) -> None:
        """Make the seeded upper directory of an overlay opaque: the content of the base does not
        show through.
        """
        outer = self.stage.plan.nesting().mounted_with(self.path, self.store_path)
        if outer is None or outer.KIND != nesting.OVERLAY:
            return
        if tree.is_directory_entry(workshop, name):
            fd = paths.open_beneath(workshop, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with immutable.Lifted(fd):
                    os.setxattr(fd, layers.OPAQUE, b"y")
            finally:
                os.close(fd)

    def _make_beside(
        self, copier: copying.Copier, parent: int, name: str, seeding: int, place: int,
        new_name: str,
    ) -> None:  # fmt: skip
        """Make it in a workshop beside its place, for no rename leads there from the store's own
        directory: it is on another subvolume, or has a project or an encryption policy of its own.
        """
        above = self.source.rpartition("/")[0]
        noted: list[str] = []

        def note(shop: str) -> None:
            os.symlink(above or ".", shop, dir_fd=seeding)
            noted.append(shop)

        try:
            with workshop.Workshop(place, announce=note) as shop:
                copier.copy(parent, name, shop.fd, _COPY)
                self._finish(shop.fd, _COPY)
                if self.source in self.stage.parents(self.store_path):
                    self._fill_parent(shop.fd, _COPY, place, new_name)
                else:
                    self._make_way(place, new_name, shop.fd, "old")
                    shop.deliver(_COPY, new_name)
        finally:
            for one in noted:
                _forget(self.stage.store(self.store_path), seeding, one)

    def _make_way(self, place: int, new_name: str, private: int, old: str) -> None:
        """Move the store's content of that name aside; into the directory *private*, where only
        root gets and which is cleared, if it has been kept once already.
        """
        if not self.aside:
            return
        how = paths.RENAME_NOREPLACE
        try:
            immutable.rename(place, new_name, place, self.aside, how=how)
        except FileNotFoundError:
            pass
        except FileExistsError:
            if not _clear(private, old):
                raise OSError(
                    errno.EBUSY, "an unfinished copy of an earlier boot is not removed yet"
                ) from None
            immutable.rename(place, new_name, private, old, how=how)


def _give(directory: int, name: str, owner: Owner) -> None:
    """Set the configured owner and mode of the file; other attributes stay."""
    if owner == (None, None, None):
        return
    user, group, mode = owner
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        user, group = (-1 if number is None else number for number in (user, group))
        os.chown(name, user, group, dir_fd=directory, follow_symlinks=False)
        return
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        present = stat.S_IMODE(os.fstat(fd).st_mode)
        with immutable.Lifted(fd):
            os.fchown(fd, -1 if user is None else user, -1 if group is None else group)
            os.fchmod(fd, present if mode is None else mode)  # after chown, which clears setuid
    finally:
        os.close(fd)


def sweep(store: int) -> None:
    """Remove what an interrupted boot has left in the open *store*'s own directory."""
    try:
        seeding = paths.open_beneath(store, f"{STATE}/{SEEDING}", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    deadline = time.monotonic() + limits.CLEANING
    try:
        for name in paths.names(seeding) if os.fstat(seeding).st_uid == 0 else ():
            if name.startswith(workshop.PREFIX):
                _forget(store, seeding, name)
            else:
                removal.remove(seeding, name, deadline, subvolumes=True, unlock=True)
    finally:
        os.close(seeding)


def _forget(store: int, seeding: int, name: str) -> None:
    """Remove the workshop *name*: it is in the open directory *seeding*, or where a link of that
    name leads.
    """
    try:
        above = os.readlink(name, dir_fd=seeding)
    except OSError:
        workshop.sweep_one(seeding, name)
        return
    try:
        place = tree.open_parent(store, f"{above}/{name}")[0]
    except OSError:
        pass  # a user has moved that directory
    else:
        workshop.sweep_one(place, name)
        os.close(place)
    os.unlink(name, dir_fd=seeding)


def _clear(directory: int, name: str) -> bool:
    """Remove an unfinished copy of Ephemeroot's; whether it is gone."""
    deadline = time.monotonic() + limits.CLEANING
    return removal.remove(directory, name, deadline, subvolumes=True, unlock=True)


def _remove_quietly(directory: int, name: str) -> None:
    try:
        _clear(directory, name)
    except OSError:
        pass  # the next seeding of this path begins by removing it
