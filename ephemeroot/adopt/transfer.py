"""The data of an adoption on its way: copy and verify, declare, rename, copy changes, bind."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from ephemeroot import amounts
from ephemeroot.adopt import drop_in, underway
from ephemeroot.adopt.candidate import Candidate
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import records, tree
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.records import STATE
from ephemeroot.hooks.stage import Stage
from ephemeroot.linux import bounds, immutable, kernel, paths, removal, subvolume
from ephemeroot.linux.bounds import OutOfBounds
from ephemeroot.linux.copying import Copier
from ephemeroot.linux.workshop import Workshop
from ephemeroot.mirror.run import COPY
from ephemeroot.mirror.tree import Mirror, open_directory, settle
from ephemeroot.plan import stores


class Transfer:
    """One adoption under way, with everything open: from the root *bare*, without the mounts in
    it, to the *store*.
    """

    def __init__(
        self,
        candidate: Candidate,
        store: int,
        bare: int,
        stage: Stage,
    ) -> None:
        self.root = candidate.root
        self.candidate = candidate
        self.store = store
        self.bare = bare
        self.stage = stage
        self.left_out: dict[str, str] = {}
        self.copier = Copier(bounds.attended(), skipped=self._leave_out)
        self.copier.progress = lambda name: candidate.progress(self.copier, name)
        self.source = candidate.operation.source

    def counted(self) -> str:
        """How much was copied."""
        copied, shared = self.copier.copied, self.copier.shared
        parts = [f"{amounts.size(copied)} copied"] if copied or not shared else []
        return ", ".join(parts + ([f"{amounts.size(shared)} shared"] if shared else []))

    def _leave_out(self, path: str, reason: str) -> None:
        """Note an entry that cannot be copied; the others are."""
        self.left_out[path] = reason

    def copy(self) -> list[str]:
        """Copy under a temporary name, verify, declare, rename; what kept changing."""
        name = underway.name(self.source)
        folder = records.open_folder(self.store, underway.FOLDER)
        try:
            _clear(folder, name)
            parent, last = self._live()
            try:
                self._copy(parent, last, folder, name)

                def verify() -> Mirror:
                    # Byte by byte, unless all of it is shared with the source.
                    content = bool(self.copier.copied)
                    return self._mirror(parent, last, folder, name, content=content)

                changed = self._settle(verify)
            finally:
                os.close(parent)
            kernel.sync_filesystem(folder)
            self._declare()
            self._make_parents()
            self._put_in_place(folder, name)
        finally:
            os.close(folder)
        return self._catch_up() or changed

    def _settle(self, run: Callable[[], Mirror]) -> list[str]:
        """Repeat until nothing changes; what another process keeps writing to."""
        last = settle(run)
        self.left_out = dict(last.skipped)
        return [*last.changed, *last.removed]

    def _copy(self, parent: int, last: str, folder: int, name: str) -> None:
        try:
            self.copier.copy(parent, last, folder, name)
            if self.copier.flattened:
                note = subvolume.flattened(self.copier.flattened, self.candidate.path)
                self.candidate.notes.append(f"{note} in the store")
        except OutOfBounds as error:
            _clear(folder, name)
            raise EphemerootError(
                f"{self.candidate.path} is not adopted: {error}",
                "see 'Limits' in docs/persistence.md",
            ) from error
        except OSError as error:
            _clear(folder, name)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EphemerootError(
                    f"the store {self.candidate.store} is too full to take {self.candidate.path}",
                    "free space on its volume",
                ) from error
            raise

    def merge(self) -> list[str]:
        """Bring into the store's directory what it lacks of the root's, beside what is declared
        below it; or what changed since an interrupted run.
        """
        folder = records.open_folder(self.store, underway.FOLDER)
        try:
            place = os.stat(self.source, dir_fd=self.store, follow_symlinks=False)
            underway.write(folder, self.source, self.root, place)
        finally:
            os.close(folder)
        if not self.candidate.inner:
            self._declare()
            self._make_parents()
            return self._catch_up()
        changed = self._catch_up()
        kernel.sync_filesystem(self.store)
        self._declare()
        return self._catch_up() or changed

    def _catch_up(self) -> list[str]:
        """Make the store's like the root's again, in its place."""
        parent, last = self._live()
        try:
            target, name = tree.open_parent(self.store, self.source)
            try:
                delete = not self.candidate.inner
                return self._settle(lambda: self._mirror(parent, last, target, name, delete=delete))
            finally:
                os.close(target)
        finally:
            os.close(parent)

    def _live(self) -> tuple[int, str]:
        """The directory and the name of the live path, in the root without what is mounted."""
        head, _, last = self.candidate.path.rpartition("/")
        return tree.open_parent(
            self.bare, tree.resolve(self.bare, head or "/").rstrip("/") + "/" + last
        )

    def _mirror(
        self, parent: int, last: str, target: int, name: str, *, content: bool = False,
        delete: bool = True, since: int = 0,
    ) -> Mirror:  # fmt: skip
        excluded = self.candidate.inner if self.candidate.there else ()
        mirror = Mirror(
            excluded=excluded, delete=delete, content=content, since=since, copier=self.copier
        )
        if self.candidate.is_link:
            if os.readlink(last, dir_fd=parent) != os.readlink(name, dir_fd=target):
                mirror.changed.append(self.candidate.path)
            return mirror
        if self.candidate.is_directory:
            old = open_directory(parent, last)
        else:
            old = paths.open_regular(parent, last)
        try:
            if self.candidate.is_directory:
                mirror.directory(old, target, name)
            else:
                mirror.file(old, target, name, self.candidate.path)
        except OutOfBounds as error:
            raise EphemerootError(
                f"{self.candidate.path} is not complete in the store: {error}",
                "see 'Limits' in docs/persistence.md",
            ) from error
        finally:
            os.close(old)
        return mirror

    def _declare(self) -> None:
        """Write it into the drop-in, if it is not declared yet."""
        if self.candidate.declare is not None:
            drop_in.add(self.root, [self.candidate.declare])

    def _make_parents(self) -> None:
        for parent in self.candidate.parents:
            parent.carry_over(self.stage, self.bare)

    def _put_in_place(self, folder: int, name: str) -> None:
        self._record(folder, folder, name)
        target, last = tree.open_parent(self.store, self.source)
        try:
            try:
                how = paths.RENAME_NOREPLACE
                immutable.rename(folder, name, target, last, how=how)
            except FileExistsError:
                self._require_replace()
                self._exchange(folder, name, target, last)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._put_across(folder, name, target, last)
        finally:
            os.close(target)
        kernel.sync_filesystem(folder)

    def _record(self, folder: int, place: int, name: str) -> None:
        copy = os.stat(name, dir_fd=place, follow_symlinks=False)
        underway.write(folder, self.source, self.root, copy)

    def _require_replace(self) -> None:
        if not self.candidate.replace:
            raise EphemerootError(
                f"the store {self.candidate.store} has another {self.candidate.path} now",
                "compare both, and run the command again",
            )

    def _put_across(self, folder: int, name: str, target: int, last: str) -> None:
        """Its place is on a subvolume of its own, or has a project or an encryption of its own:
        no rename leads there from *folder*, and the copy is copied again, in a workshop there.
        """
        with Workshop(target) as workshop:
            Copier().copy(folder, name, workshop.fd, COPY, subvolume=True)
            kernel.sync_filesystem(workshop.fd)
            self._record(folder, workshop.fd, COPY)
            try:
                workshop.deliver(COPY, last)
            except FileExistsError:
                self._require_replace()
                raise self._cannot_keep() from None
        _clear(folder, name)

    def _cannot_keep(self) -> EphemerootError:
        return EphemerootError(
            f"{self.candidate.path} is a separate subvolume in the store, which cannot be kept "
            "aside",
            "move it away, and adopt the path without --replace",
        )

    def _exchange(self, folder: int, name: str, target: int, last: str) -> None:
        """Swap the copy for what the store has. The copy is moved to where the other will be kept
        before: so that one is at no moment under a name that the next run clears.
        """
        aside = records.open_folder(self.store, stores.REPLACED)
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        kept = f"{moment}-{os.urandom(3).hex()}-{os.path.basename(self.source)[:40]}"
        try:
            immutable.rename(folder, name, aside, kept, how=paths.RENAME_NOREPLACE)
            try:
                immutable.rename(aside, kept, target, last, how=paths.RENAME_EXCHANGE)
            except OSError as error:
                _clear(aside, kept)
                if error.errno == errno.EXDEV:
                    raise self._cannot_keep() from None
                raise
            kernel.sync_filesystem(aside)
        finally:
            os.close(aside)
        self.candidate.notes.append(
            "the previous content of the store is kept as "
            f"{self.candidate.store}/{STATE}/{stores.REPLACED}/{kept}"
        )

    def bind(self) -> bool:
        """Put the store's instead of the root's, as the boot will; whether that was done."""
        if isinstance(self.candidate.operation, Copy):
            return False
        before = time.time_ns()
        self.candidate.operation.execute(self.stage)
        # What was written in the last moment by who looked before the bind was there.
        parent, last = self._live()
        try:
            target, name = tree.open_parent(self.store, self.source)
            try:
                self._mirror(parent, last, target, name, delete=False, since=before)
            finally:
                os.close(target)
        finally:
            os.close(parent)
        return True


def _clear(directory: int, name: str) -> None:
    """Remove a copy of Ephemeroot's."""
    removal.remove(directory, name, subvolumes=True, unlock=True)
