"""The transfer of an adoption: copy and verify, declare, rename, copy the changes, bind."""

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
    """The transfer of one adoption, between open directories: from the root without its mounts
    (*bare*) to the *store*.
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

    def amount(self) -> str:
        """The amount of copied data."""
        copied, shared = self.copier.copied, self.copier.shared
        parts = [f"{amounts.size(copied)} copied"] if copied or not shared else []
        return ", ".join(parts + ([f"{amounts.size(shared)} shared"] if shared else []))

    def _leave_out(self, path: str, reason: str) -> None:
        """Note an entry that cannot be copied; the copy continues with the next."""
        self.left_out[path] = reason

    def copy(self) -> list[str]:
        """Copy under a temporary name, verify, declare, rename. Returns the files that changed
        during the copy.
        """
        name = underway.name(self.source)
        folder = records.open_folder(self.store, underway.FOLDER)
        try:
            _clear(folder, name)
            parent, last = self._live()
            try:
                self._copy(parent, last, folder, name)

                def verify() -> Mirror:
                    # Compare the bytes, unless all of them are shared with the source.
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
        return self._synchronise() or changed

    def _settle(self, run: Callable[[], Mirror]) -> list[str]:
        """Repeat until no file changes. Returns the files that other processes still change."""
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
                f"cannot adopt {self.candidate.path}: {error}",
                "see 'Limits' in docs/persistence.md",
            ) from error
        except OSError as error:
            _clear(folder, name)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EphemerootError(
                    f"cannot adopt {self.candidate.path}: the store {self.candidate.store} is full",
                    "free space on its volume, and run the command again",
                ) from error
            raise

    def merge(self) -> list[str]:
        """Copy into the existing directory of the store what it lacks of the root's: all but the
        declared paths below it, or the changes since an interrupted run.
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
            return self._synchronise()
        changed = self._synchronise()
        kernel.sync_filesystem(self.store)
        self._declare()
        return self._synchronise() or changed

    def _synchronise(self) -> list[str]:
        """Make the content of the store equal to that of the root, in place."""
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
        """The directory and the name of the live path, in the root without its mounts."""
        head, _, last = self.candidate.path.rpartition("/")
        return tree.open_parent(
            self.bare, tree.resolve(self.bare, head or "/").rstrip("/") + "/" + last
        )

    def _mirror(
        self, parent: int, last: str, target: int, name: str, *, content: bool = False,
        delete: bool = True, since: int = 0,
    ) -> Mirror:  # fmt: skip
        excluded = self.candidate.inner if self.candidate.in_store else ()
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
                f"the copy of {self.candidate.path} in the store is incomplete: {error}",
                "see 'Limits' in docs/persistence.md",
            ) from error
        finally:
            os.close(old)
        return mirror

    def _declare(self) -> None:
        """Write the path into the drop-in, unless it is declared."""
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
                f"cannot adopt {self.candidate.path}: another process has just created it in the "
                f"store {self.candidate.store}",
                "compare the two versions, and run the command again",
            )

    def _put_across(self, folder: int, name: str, target: int, last: str) -> None:
        """Copy again, in a workshop beside the target: a target in a separate subvolume, project
        quota or encryption policy cannot be renamed to from *folder*.
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
            f"cannot replace {self.candidate.path} in the store: it is a separate subvolume there",
            "move it away, and adopt the path without --replace",
        )

    def _exchange(self, folder: int, name: str, target: int, last: str) -> None:
        """Exchange the copy for the content of the store. The copy is first moved to the place
        where the content is then kept: the content never has a name that the next run clears.
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
        """Bind the path from the store as the next boot does. Returns whether there was a bind."""
        if isinstance(self.candidate.operation, Copy):
            return False
        before = time.time_ns()
        self.candidate.operation.execute(self.stage)
        # Copy the last writes of processes that opened a file before the bind.
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
    """Remove a temporary copy."""
    removal.remove(directory, name, subvolumes=True, unlock=True)
