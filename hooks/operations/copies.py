"""Declared files that programs replace by rename: copied to the root, and back.

A bound file cannot be renamed over (EBUSY), a link is replaced by a file that is then
lost. So the root has a file of its own: copied from the store at boot, and back when it
changes and at shutdown (``copyback``).
"""

from __future__ import annotations

import os
import stat
import time
from binascii import crc32

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.hooks import limits, records, tree
from ephemeroot.hooks.omission import Omission, cannot_take
from ephemeroot.hooks.operation import Seeded
from ephemeroot.hooks.report import WARNING
from ephemeroot.hooks.store import (
    accounts,
    copied,
    nesting,
    order,
    renames,
    seed,
    seeding,
    unseeded,
)
from ephemeroot.linux import copying, immutable, kernel, paths, removal
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.comparison import same
from ephemeroot.linux.workshop import Workshop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.stage import Stage


_COPY = "copy"
_WITH_DIRECTORY = "persists with its directory"


class Copy(Seeded):
    """Have a copy of the store's file or symbolic link ``source`` at ``path``.

    ``user``, ``group`` and ``mode`` are for the file when it is seeded; ``None`` keeps
    the seed's. passwd, group, shadow and gshadow take in the system users that only the
    fresh root has; a file that would lock all users out is set aside in the store.
    """

    KIND = "copy"

    def describe(self) -> str:
        return f"copy file {self.path} from {self.store}, and back when it changes"

    def execute(self, stage: Stage) -> str:
        if nesting.is_in_overlay(stage, self):
            return _joined([stage.take_prepared(self.path), _WITH_DIRECTORY])
        renames.recover(stage.store(self.store))
        place = stage.resolve_leaf(self.path)
        persists_with = nesting.persists_with(stage, self)
        entry = self._entry(place, stage.plan.owner(self.path), nesting.through(stage, self))
        results = []
        if stage.was_kept() or stage.behind >= 0:
            try:
                results.append(self._catch_up_late(stage))
            except Refused:
                # The root's is the newer one: it stays, and is stored once there is room.
                if persists_with is None:
                    stage.copies.append(entry)
                raise
        # What the store's own directory shows is the store's.
        found = self._have_source(stage, stage.root() if persists_with is None else stage.bare(),
                                  results)  # fmt: skip
        if persists_with is not None:
            return _joined([*results, _WITH_DIRECTORY])
        if found:
            results.append(self._copy(stage, stage.store(self.store), place))
        else:
            results.append("nothing to copy yet")
        # Not before: everything that could not be copied to the root must not be replaced by what
        # the root has instead.
        stage.copies.append(entry)
        return _joined(results)

    def prepare(self, stage: Stage) -> str:
        renames.recover(stage.store(self.store))
        results = [self._catch_up_late(stage)]
        # Without one the overlay shows what the base has.
        if self._is_sound(stage, stage.store(self.store)):
            self._take_from_base(stage, results)
        return _joined(results)

    def _have_source(self, stage: Stage, root: int, results: list[str]) -> bool:
        """Whether the store has the file, seeded from the open *root* or not, with what the base
        adds to it.
        """
        store = stage.store(self.store)
        found = self._is_sound(stage, store)
        if not found:
            lack = unseeded.lack(stage, self.path, self.store, self.source, self.initial)
            if lack.may_seed:
                results.append(seed.seed_file(stage, self, root))
                found = self._is_sound(stage, store)
            if not found:
                lack.require()
        if found:
            self._take_from_base(stage, results)
        return found

    def _take_from_base(self, stage: Stage, results: list[str]) -> None:
        if self.path not in accounts.MERGED:
            return
        try:
            results.append(self._merge(stage, stage.store(self.store)))
        except OSError as error:
            # Without the base's new users the machine works as before; without the
            # store's users, no user could log in.
            stage.report.problem(f"{self.path}: cannot add the base's entries: {error.strerror}")

    def carry_over(self, stage: Stage, previous: int) -> str:
        """Store what the previous root had no time to copy back; seed the store with its
        file if it has none that can be used. Raises ``Refused`` if the store takes nothing.
        """
        store = stage.store(self.store)
        renames.recover(store)
        if self._is_sound(stage, store):
            return self._catch_up(stage, previous)
        if self.initial != "previous" or nesting.was_through(stage, self, previous):
            return ""
        return seed.seed_file(stage, self, previous)

    def describe_carry_over(self, stage: Stage) -> str:
        try:
            accounts.status_of(stage.store(self.store), self.source)
        except FileNotFoundError:
            return seed.describe(self.path, self.store) if self.initial == "previous" else ""
        return (
            f"copy back {self.path} to the store {self.store}, if the previous root has a newer "
            "version"
        )

    def _catch_up_late(self, stage: Stage) -> str:
        """The same in the persistence stage, for changes that were not stored before the wipe:
        from the layer of the previous boot, and from a kept root.
        """
        layer = self._catch_up(stage, stage.behind) if stage.behind >= 0 else ""
        kept = self._catch_up(stage, stage.bare()) if stage.was_kept() else ""
        return _joined([layer, kept])

    def _catch_up(self, stage: Stage, root: int) -> str:
        """Store what the boot of the open bare *root* has not copied back. Its copy is in the
        root, or through a directory that persists in another store.
        """
        from ephemeroot.hooks.store.copyback import CopyBack

        store = stage.store(self.store)
        try:
            head, _, name = self.path.rpartition("/")
            place = tree.resolve(root, head or "/").rstrip("/") + "/" + name
        except OSError:
            place = self.path
        through = copied.newer_in(root, place, self.store, store, self.source)
        if through is None:
            return ""
        if through:
            root = stage.store(through)
        entry = self._entry(place, stage.plan.owner(self.path), through)
        back = CopyBack([entry], {self.store: store}, root, stage.plan.seed_limit)
        back.store(stage.allowance.deadline)
        if back.refused is not None:
            raise cannot_take(self.store, f"the changes of {self.path}", back.refused)
        deadline = stage.allowance.deadline
        if back.problems and deadline is not None and time.monotonic() >= deadline:
            if stage.plan.owner(self.path) == order.ROOT:
                raise Refused(
                    f"the newer {self.path} is not in the store: the time limit is reached",
                    "run 'ephemeroot copyback' before the next boot",
                )
        for problem in back.problems:
            stage.report.problem(problem, level=WARNING)
        allowance = stage.allowance
        if back.problems and allowance.omissions is not None:
            # The store keeps an earlier one: the newer one is in the previous root alone.
            if allowance.partial or back.too_large:
                reason = back.problems[0].rpartition(": ")[2]
                omission = Omission(self.path, self.store, self.source, reason)
                allowance.omissions.append(omission)
        return "stored the newer version from the root" if back.copied else ""

    def kinds(self, stage: Stage) -> tuple[int, ...]:
        """Everything that can be seeded: a link persists as a link, but for what many programs rely
        on.
        """
        return (stat.S_IFREG,) if self.path in accounts.MERGED else (stat.S_IFREG, stat.S_IFLNK)

    def _entry(self, place: str, user: int, through: str) -> dict[str, object]:
        """The entry for the running system: the file and its owner."""
        entry: dict[str, object] = {
            "path": place, "store": self.store, "source": self.source, "user": user,
        }  # fmt: skip
        return entry | {"through": through} if through else entry

    def _is_sound(self, stage: Stage, store: int) -> bool:
        """Whether the store has the file. A file that locks all users out is set aside."""
        try:
            status = accounts.status_of(store, self.source)
        except FileNotFoundError:
            return False
        is_account = self.path in accounts.MERGED
        if stat.S_ISLNK(status.st_mode) and not is_account:
            return True
        if not stat.S_ISREG(status.st_mode):
            raise EphemerootError(f"{self.store}/{self.source} is not a regular file")
        if not is_account:
            return True
        found = accounts.defect_in(self.path, store, self.source)
        if found:
            aside = accounts.set_aside(store, self.source)
            stage.report.problem(
                f"{self.store}/{self.source} is not used: {found}; renamed to {aside}",
                f"if {self.path} has the wrong content now: boot with ephemeroot.persist=no, "
                f"repair {aside}, and rename it back",
            )
        return not found

    def _merge(self, stage: Stage, store: int) -> str:
        folder = os.path.dirname(self.source)
        mine, base = {}, {}
        nested = stage.plan.nesting().outer(self.path) is not None
        bare = stage.bare() if nested else stage.root()
        for path in accounts.MERGED:
            mine[path] = accounts.read(store, f"{folder}/{os.path.basename(path)}".lstrip("/"))
            base[path] = accounts.read(bare, path)
        merger = accounts.Merger(mine, base)
        content, added = merger.merge(self.path)
        if self.path in (accounts.PASSWD, accounts.GROUP):
            what = "user " if self.path == accounts.PASSWD else "group "
            for conflict in merger.conflicts:
                if conflict.startswith(what):
                    stage.report.problem(
                        f"{self.path}: not added from the base: {conflict}",
                        "give one of the two another id (usermod -u, groupmod -g)",
                        WARNING,
                    )
        if content == mine[self.path]:
            return ""
        self._replace(stage, store, content)
        return f"added {', '.join(added)} from the base" if added else "added members from the base"

    def _replace(self, stage: Stage, store: int, content: bytes) -> None:
        """Give the store's file another *content*, atomically and durably."""
        folder = records.open_folder(store, seeding.SEEDING)
        temporary = f"{crc32(os.fsencode(self.source)):08x}"
        parent, name = tree.open_parent(store, self.source)
        try:
            removal.remove(folder, temporary, unlock=True)
            bounds = limits.bounds(limits.ACCOUNTS, stage.allowance.deadline)
            copying.Copier(bounds).copy_file(parent, name, folder, temporary)
            _write(folder, temporary, content)
            renames.move(folder, temporary, parent, name)
            kernel.sync_filesystem(folder)
        finally:
            os.close(parent)
            os.close(folder)

    def _copy(self, stage: Stage, store: int, place: str) -> str:
        source, name = tree.open_parent(store, self.source)
        try:
            target, new_name = tree.open_parent(stage.root(), place)
            try:
                bounds = limits.bounds(stage.plan.seed_limit, stage.allowance.deadline)
                if same(source, name, target, new_name, bounds):
                    return "already present"
                replaced = tree.exists(target, new_name)
                with Workshop(target) as workshop:
                    copying.Copier(bounds).copy_file_or_link(source, name, workshop.fd, _COPY)
                    immutable.rename(workshop.fd, _COPY, target, new_name)
            finally:
                os.close(target)
        except OutOfBounds as error:
            if error.bound not in ("bytes_copied", "file_bytes"):
                raise Refused(
                    f"{self.store}/{self.source} is not copied: {error.reason}",
                    'use method = "bind" for a file of this size',
                ) from None
            raise Refused(
                f"{self.store}/{self.source} is larger than the seed limit of "
                f"{stage.plan.seed_limit >> 20} MiB and is not copied",
                'raise seed-limit, or use method = "bind"',
            ) from None
        finally:
            os.close(source)
        return "copied, replacing the root's file" if replaced else "copied"


def _write(directory: int, name: str, content: bytes) -> None:
    """Give our own copy *name*, which may be immutable, another *content*."""
    copy = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        with immutable.Lifted(copy):
            fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=directory)
            try:
                paths.write_whole(fd, content)
                os.fsync(fd)
            finally:
                os.close(fd)
    finally:
        os.close(copy)


def _joined(results: list[str]) -> str:
    return " and ".join(filter(None, results))
