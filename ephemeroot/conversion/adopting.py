"""One adoption under way: copy and verify, declare, rename, catch up, bind."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from ephemeroot import amounts
from ephemeroot.conversion import underway
from ephemeroot.conversion.mirror import Mirror, open_directory, settle
from ephemeroot.errors import EphemerootError
from ephemeroot.hooks import seed, tree
from ephemeroot.hooks.copies import Copy
from ephemeroot.hooks.stage import Stage
from ephemeroot.hooks.volumes import STATE
from ephemeroot.image import stores
from ephemeroot.linux import paths, removal
from ephemeroot.linux.copying import Copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.conversion.adoption import Adopter, Adoption


class Work:
    """One adoption under way, with everything open."""

    def __init__(
        self,
        adopter: Adopter,
        adoption: Adoption,
        store: int,
        bare: int,
        stage: Stage,
        progress: Callable[[Copier, str], None] | None,
    ) -> None:
        self.adopter = adopter
        self.adoption = adoption
        self.store = store
        self.bare = bare
        self.stage = stage
        self.copier = Copier()
        if progress is not None:
            self.copier.progress = lambda name: progress(self.copier, name)
        self.source = adoption.operation.source

    def counted(self) -> str:
        """How much was copied."""
        copied, shared = self.copier.copied, self.copier.shared
        parts = [f"{amounts.size(copied)} copied"] if copied or not shared else []
        return ", ".join(parts + ([f"{amounts.size(shared)} shared"] if shared else []))

    def copy(self) -> list[str]:
        """Copy under a temporary name, verify, declare, rename; what kept changing."""
        adoption, name = self.adoption, underway.name(self.source)
        folder = seed.open_records(self.store, underway.FOLDER)
        try:
            removal.remove(folder, name)
            parent, last = self._live()
            try:
                self._copy(parent, last, folder, name)

                def verify() -> Mirror:
                    # Byte by byte, unless all of it is shared with the source.
                    content = bool(self.copier.copied)
                    return self._mirror(parent, last, folder, name, content=content)

                changed = settle(verify)
            finally:
                os.close(parent)
            seed.sync(folder)
            self.adopter.declare(adoption)
            self._make_parents()
            self._put_in_place(folder, name)
        finally:
            os.close(folder)
        return self._catch_up() or changed

    def _copy(self, parent: int, last: str, folder: int, name: str) -> None:
        try:
            self.copier.copy(parent, last, folder, name)
        except OSError as error:
            removal.remove(folder, name)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise EphemerootError(
                    f"the store {self.adoption.store} is too full to take {self.adoption.path}",
                    "make room in it",
                ) from error
            raise

    def merge(self) -> list[str]:
        """Bring into the store's directory what it lacks of the root's, beside what is declared
        below it; or what changed since an interrupted run.
        """
        folder = seed.open_records(self.store, underway.FOLDER)
        try:
            place = os.stat(self.source, dir_fd=self.store, follow_symlinks=False)
            underway.write(folder, self.source, self.adopter.root, place)
        finally:
            os.close(folder)
        if not self.adoption.inner:
            self.adopter.declare(self.adoption)
            self._make_parents()
            return self._catch_up()
        changed = self._catch_up()
        seed.sync(self.store)
        self.adopter.declare(self.adoption)
        return self._catch_up() or changed

    def _catch_up(self) -> list[str]:
        """Make the store's like the root's once more, in its place."""
        parent, last = self._live()
        try:
            target, name = tree.open_parent(self.store, self.source)
            try:
                return settle(lambda: self._mirror(parent, last, target, name,
                                                   delete=not self.adoption.inner))  # fmt: skip
            finally:
                os.close(target)
        finally:
            os.close(parent)

    def _live(self) -> tuple[int, str]:
        """The directory and the name of the live path, in the root without what is mounted."""
        head, _, last = self.adoption.path.rpartition("/")
        return tree.open_parent(
            self.bare, tree.resolve(self.bare, head or "/").rstrip("/") + "/" + last
        )

    def _mirror(
        self, parent: int, last: str, target: int, name: str, *, content: bool = False,
        delete: bool = True, since: int = 0,
    ) -> Mirror:  # fmt: skip
        excluded = self.adoption.inner if self.adoption.there else ()
        mirror = Mirror(
            excluded=excluded, delete=delete, content=content, since=since, copier=self.copier
        )
        if self.adoption.is_directory:
            old = open_directory(parent, last)
            try:
                new = open_directory(target, name)
                try:
                    mirror.tree(old, new)
                finally:
                    os.close(new)
            finally:
                os.close(old)
            return mirror
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        old = os.open(last, os.O_RDONLY | flags, dir_fd=parent)
        try:
            new = os.open(name, os.O_RDWR | flags, dir_fd=target)
            try:
                mirror.file(old, new, self.adoption.path)
            finally:
                os.close(new)
        finally:
            os.close(old)
        return mirror

    def _make_parents(self) -> None:
        for parent in self.adoption.parents:
            parent.carry_over(self.stage, self.bare)

    def _put_in_place(self, folder: int, name: str) -> None:
        copy = os.stat(name, dir_fd=folder, follow_symlinks=False)
        underway.write(folder, self.source, self.adopter.root, copy)
        target, last = tree.open_parent(self.store, self.source)
        try:
            try:
                paths.rename(folder, name, target, last, flags=paths.RENAME_NOREPLACE)
            except FileExistsError:
                if not self.adopter.replace:
                    raise EphemerootError(
                        f"the store {self.adoption.store} has got another {self.adoption.path} "
                        "meanwhile",
                        "look at it, and run it again",
                    ) from None
                self._exchange(folder, name, target, last)
        finally:
            os.close(target)
        seed.sync(folder)

    def _exchange(self, folder: int, name: str, target: int, last: str) -> None:
        """Swap the copy for what the store has. The copy is moved to where the other will be
        kept before: so that one is at no moment under a name that the next run clears.
        """
        aside = seed.open_records(self.store, stores.REPLACED)
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        kept = f"{moment}-{os.urandom(3).hex()}-{os.path.basename(self.source)[:40]}"
        try:
            paths.rename(folder, name, aside, kept, flags=paths.RENAME_NOREPLACE)
            try:
                paths.rename(aside, kept, target, last, flags=paths.RENAME_EXCHANGE)
            except OSError:
                removal.remove(aside, kept)
                raise
            seed.sync(aside)
        finally:
            os.close(aside)
        self.adoption.notes.append(
            f"what the store had is kept as {self.adoption.store}/{STATE}/{stores.REPLACED}/{kept}"
        )

    def bind(self) -> bool:
        """Put the store's in the place of the root's, as the boot will; whether that was done."""
        if isinstance(self.adoption.operation, Copy):
            return False
        before = time.time_ns()
        self.adoption.operation.execute(self.stage)
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
