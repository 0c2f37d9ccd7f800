"""Copying files from the running root back to the store.

Several files that change together are stored together (``renames``). After a power cut, the
next boot finds files with changes that the store lacks (``copied.newer_in``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from ephemeroot.errors import EphemerootError, StoreMissing
from ephemeroot.hooks import limits, omission, records, tree
from ephemeroot.hooks.guards import ownership
from ephemeroot.hooks.store import accounts, copied, machine_id_file, order, renames
from ephemeroot.hooks.store.copied import CopiedFile
from ephemeroot.linux import comparison, copying, kernel, layers, paths, removal
from ephemeroot.linux.bounds import OutOfBounds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_PATIENCE = 15.0  # seconds: lckpwdf(3) waits that long


class CopyBack:
    """Copies *files* (``path``, ``store``, ``source`` and ``user`` of each) of the open *root* into
    the open *stores*.

    Root's files are stored first, and together: those that say who may log in change together.
    Then each user's, within the user's share of the time, so that no user's file delays or stops
    another's.

    ``copied`` are the stored paths, ``problems`` the failed ones with the reasons; ``too_large``
    whether one of those is over the limit; ``refused``
    is the error of a store that takes nothing (``omission.takes_nothing``).
    *limit* is how many bytes of one file may really be copied, as at boot.
    """

    __slots__ = (
        "_files",
        "_limit",
        "_root",
        "_stores",
        "copied",
        "problems",
        "refused",
        "too_large",
    )

    def __init__(
        self, files: Sequence[Mapping[str, object]], stores: dict[str, int], root: int, limit: int
    ) -> None:
        self._files = [CopiedFile(entry) for entry in files]
        self._stores = stores
        self._root = root
        self._limit = limit
        self.copied: list[str] = []
        self.refused: OSError | None = None
        self.too_large = False
        self.problems: list[str] = []

    def run(self, patience: float = _PATIENCE) -> None:
        """Store every change in the running root. Waits *patience* seconds for a program that
        is changing accounts.
        """
        lock = -1
        if any(entry.path in accounts.LOCKED for entry in self._files):
            lock = self._lock_accounts(patience)
        try:
            self.store()
            if self.copied:
                mounted = [file for file in self._files if file.store in self._stores]
                try:
                    copied.write(self._root, self._stores, mounted)
                except OSError as error:
                    self.problems.append(f"/{copied.COPIED} cannot be written: {error.strerror}")
        finally:
            if lock >= 0:
                os.close(lock)

    def store(self, deadline: float | None = None) -> None:
        """Store every change in a root that is not in use, and change nothing there.

        *deadline* is a time of ``time.monotonic()``, by default ``limits.COPY_BACK`` from now.
        """
        allowed = limits.Time(limits.COPY_BACK)
        if deadline is not None:
            allowed.end = deadline
        for path, store in self._stores.items():
            files = [f for f in self._files if f.store == path and f.user == order.ROOT]
            self._store_quietly(path, store, files, allowed.end)
        users = list(dict.fromkeys(f.user for f in self._files if f.user != order.ROOT))
        for number, user in enumerate(users):
            share = allowed.share(len(users) - number)
            for path, store in self._stores.items():
                files = [f for f in self._files if f.store == path and f.user == user]
                self._store_quietly(path, store, files, share)

    def _store_quietly(
        self, path: str, store: int, files: list[CopiedFile], deadline: float
    ) -> None:
        if not files:
            return
        try:
            self._store(store, files, deadline)
        except (OSError, EphemerootError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            if isinstance(error, OSError):
                self._note(error)
            names = ", ".join(file.path for file in files[:3])
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            self.problems.append(f"{path}: {names}{more} not stored: {reason}")

    def _lock_accounts(self, patience: float) -> int:
        """The lock of lckpwdf(3), which useradd and passwd hold until all files are written.

        A program that never releases it must not prevent storing the users.
        """
        try:
            parent = paths.open_beneath(self._root, "etc", tree.DIRECTORY)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                lock = os.open(".pwd.lock", flags, 0o600, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            self.problems.append(f"/etc/.pwd.lock cannot be locked: {error.strerror}")
            return -1
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
            if time.monotonic() >= deadline:
                self.problems.append(
                    "another program holds /etc/.pwd.lock; copied without the lock"
                )
                return lock
            time.sleep(0.05)

    def _store(self, store: int, files: list[CopiedFile], deadline: float) -> None:
        """Store those of *files* that have changed, all of them or none."""
        renames.recover(store)
        changed = [file for file in files if self._has_changed(store, file, deadline)]
        if not changed:
            return
        folder = records.open_folder(store, renames.FOLDER)
        try:
            staged = [file for file in changed if self._stage(folder, file, deadline)]
            if not staged:
                return
            kernel.sync_filesystem(folder)
            renames.publish(folder, [file.temporary for file in staged])
            renames.commit(folder, [[file.temporary, file.source] for file in staged])
            failed = renames.complete(store, folder)
        finally:
            os.close(folder)
        for file in staged:
            if file.source in failed:
                self._problem(file, failed[file.source])
            else:
                self.copied.append(file.path)

    def _has_changed(self, store: int, file: CopiedFile, deadline: float) -> bool:
        """Whether the root has a file or link that is not the store's, and fit to be kept.

        One that is gone stays in the store: a program that removes a file in order to
        write it again must not lose it to a power cut.
        """
        if (
            file.path == machine_id_file.PATH
            and machine_id_file.read(self._root, file.path) is None
        ):
            return False  # systemd's first boot is not complete yet
        try:
            here, name = tree.open_parent(self._root, file.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._problem(file, error)
            return False
        try:
            try:
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if stat.S_ISLNK(status.st_mode) and file.path in accounts.MERGED:
                self._problem(file, "it was a file and is a symbolic link now")
                return False
            if layers.is_whiteout(status):
                return False
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                self._problem(file, "it is neither a regular file nor a symbolic link")
                return False
            there, stored = tree.open_parent(store, file.source)
            try:
                bounds = limits.bounds(self._limit, deadline)
                return not comparison.same(here, name, there, stored, bounds)
            finally:
                os.close(there)
        except OutOfBounds as error:
            if error.bound == "bytes_read":
                return True  # too large to compare: whether it can be copied is seen by copying
            self._problem(file, error.reason)
            return False
        except OSError as error:
            self._problem(file, error)
            return False
        finally:
            os.close(here)

    def _stage(self, folder: int, file: CopiedFile, deadline: float) -> bool:
        """Copy one file to the store's own directory; whether it is fit to be stored."""
        temporary = f"{file.temporary}.new"
        try:
            removal.remove(folder, temporary, unlock=True)
            parent, name = tree.open_parent(self._root, file.path)
            try:
                copier = copying.Copier(limits.bounds(self._limit, deadline))
                copier.copy_file_or_link(parent, name, folder, temporary)
            finally:
                os.close(parent)
            found = ""
            if file.path in accounts.MERGED:
                found = accounts.defect(file.path, renames.content(folder, temporary))
        except OutOfBounds as error:
            found = error.reason
            if error.bound in ("bytes_copied", "file_bytes"):
                found = "it is larger than the seed limit"
                self.too_large = True
        except OSError as error:
            self._note(error)
            found = error.strerror or str(error)
        if found:
            _remove(folder, temporary)
            self._problem(file, found)
        return not found

    def _note(self, error: OSError) -> None:
        if omission.takes_nothing(error):
            self.refused = error

    def _problem(self, file: CopiedFile, reason: str | OSError) -> None:
        text = reason if isinstance(reason, str) else reason.strerror
        if isinstance(reason, OSError):
            self._note(reason)
        self.problems.append(f"{file.path} was not copied to {file.store}: {text}")


def _remove(folder: int, name: str) -> None:
    try:
        removal.remove(folder, name, unlock=True)
    except OSError:
        pass  # the next copy of this file begins by removing it


class Recorded:
    """What this boot copies back: ``files`` and the ``limit``, with the stores' ids, from the
    ``root`` (``ownership.identity``) into which it has copied them; empty if that is not known.
    """

    __slots__ = ("files", "ids", "limit", "root")

    def __init__(
        self, files: list[dict[str, object]], ids: dict[str, str], limit: int, root: str = ""
    ) -> None:
        self.files = files
        self.ids = ids
        self.limit = limit
        self.root = root

    def copy_back(self, root: int, stores: dict[str, int]) -> CopyBack:
        """Copy from the open *root* to the open *stores*. Raises ``ForeignRoot`` for another root
        than the recorded one.
        """
        if self.root:
            ownership.require_prepared(root, self.root)
        back = CopyBack(self.files, stores, root, self.limit)
        back.run()
        return back

    def open_stores(self, root: str, problems: list[str]) -> dict[str, int]:
        """The stores below *root* that are mounted and theirs; the others are problems.

        Without its store mounted, the directory of that name is on the root and will be
        wiped.
        """
        found = {}
        for path, identity in self.ids.items():
            try:
                fd = os.open(root.rstrip("/") + path, tree.DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                problems.append(f"the store {path} is missing: {error.strerror}")
                continue
            try:
                marker = records.read_marker(fd, path)
            except StoreMissing as error:
                marker = ""
                problems.append(error.message)
            if marker == identity:
                found[path] = fd
                continue
            os.close(fd)
            if marker:
                problems.append(f"{path} is another store ({marker})")
        return found
