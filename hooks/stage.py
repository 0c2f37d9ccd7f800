"""What an operation finds around it while a stage runs."""

from __future__ import annotations

import fcntl
import os
import stat

from ephemeroot.errors import EphemerootError, Locked, StoreMissing
from ephemeroot.hooks import tree
from ephemeroot.hooks.omission import Allowance
from ephemeroot.hooks.parents import Parents
from ephemeroot.linux import documents, kernel, mountinfo, mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ephemeroot.hooks.cmdline import CommandLine
    from ephemeroot.hooks.plan import Plan
    from ephemeroot.hooks.report import Report
    from ephemeroot.linux.layers import Layers
    from ephemeroot.wipers.boot import Closing

RUN = "/run/ephemeroot"

WIPED = "wiped"
"""The record in the run directory that says what this boot has made fresh."""

FALLBACK = "fallback"
"""In what ``WIPED`` says of a root: why its layer is in memory although that is not configured."""

_RESERVED = 256 << 10  # bytes: a record names all old roots


class Stage:
    """One run of one stage.

    ``run`` is the run directory (``/run/ephemeroot`` in a boot), ``target`` where the
    new root is or will be mounted. ``boot_id`` tells this boot from every other.
    ``check`` is true where the initramfs does not check filesystems before it mounts them,
    ``wait`` where it does not wait for devices.
    ``made`` collects the paths that the persistence stage makes in the new root,
    ``copies`` the files that it copies there and that are copied back. ``old_root`` names
    the old root to boot, if one was asked for. ``shared`` is the wipers', see the contract.
    With ``dry_run`` a wipe only describes itself. ``allowance`` is what the entry at hand may
    cost. ``fresh`` has what this process has made fresh, whether or not that could be recorded, and
    ``handed`` the targets whose previous root has been handed over.
    ``in_effect`` maps the declared directories that are mounted in the new root to their stores,
    ``leading`` lists those of ``made`` that only lead to a declared path, ``seeded`` has the paths
    that this run has seeded, ``prepared`` what ``prepare`` came to, by path. ``behind`` is what the
    boot before wrote if that is not in this root: an open directory, or -1. ``layers`` are those of
    the root that is being handed over, ``below`` is the installed root that the new one is a layer
    over, as far as they have been asked for.
    """

    __slots__ = (
        "_bare", "_directory", "_lock", "_parents", "_recalled", "_root", "_stores", "allowance",
        "behind", "below", "beside", "boot_id", "check", "cmdline", "copies", "dry_run", "fresh",
        "handed", "in_effect", "layers", "leading", "made", "old_root", "plan", "prepared",
        "report", "run", "seeded", "shared", "target", "wait",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        cmdline: CommandLine,
        report: Report,
        *,
        target: str,
        run: str = RUN,
        boot_id: str,
    ) -> None:
        self.plan = plan
        self.cmdline = cmdline
        self.report = report
        self.target = os.path.realpath(target)
        self.run = os.path.realpath(run)
        self.boot_id = boot_id
        self.check = False
        self.dry_run = False
        self.wait = False
        self.made: list[str] = []
        self.leading: list[str] = []
        self.old_root: str | None = None
        self.shared: dict[str, Closing] = {}
        self.copies: list[dict[str, object]] = []
        self.allowance = Allowance()
        self.fresh: set[str] = set()
        self.handed: set[str] = set()
        self.in_effect: dict[str, str] = {}
        self.seeded: set[str] = set()
        self.behind = -1
        self.below = -1
        self.layers: Layers | None = None
        self.prepared: dict[str, str | EphemerootError | OSError] = {}
        self._parents: dict[str, Parents] = {}
        self._recalled: dict[str, dict[str, object] | None] = {}
        self._bare = -1
        self._directory = -1
        self.beside = ""
        self._lock = -1
        self._root = -1
        self._stores: dict[str, int] = {}

    def lock(self) -> None:
        """Take the lock of the run directory, for as long as this process lives.

        Raises ``Locked``.
        """
        fd = os.open(f"{self.run}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Locked(
                f"another run of ephemeroot holds {self.run}/lock", "wait until it ends"
            ) from None
        self._lock = fd

    def close(self) -> None:
        """Give back the wipers' mounts, the descriptors and the lock."""
        for name in list(self.shared):
            try:
                self.shared.pop(name).close()
            except OSError as error:
                self.report.problem(f"cannot unmount {name}: {error.strerror}")
        self.forget_stores()
        self.leave_directory()
        for fd in (self.below, self.behind, self._bare, self._root, self._lock):
            if fd >= 0:
                os.close(fd)
        self.below = self.behind = self._bare = self._root = self._lock = -1

    def volume(self, name: str) -> str:
        """Where the volume called *name* is mounted privately."""
        return f"{self.run}/volumes/{name}"

    def private(self, name: str) -> str:
        """An empty directory of the run directory, made if it is missing."""
        path = f"{self.run}/{name}"
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    def forget_stores(self) -> None:
        """Close the stores: another plan may have others."""
        for fd in self._stores.values():
            os.close(fd)
        self._stores.clear()
        self._parents.clear()

    def add_store(self, path: str, fd: int) -> None:
        """Remember the open directory of the store that is called *path*."""
        self._stores[path] = fd

    def stores(self) -> list[tuple[str, int]]:
        """The stores that were found, each with its open directory."""
        return list(self._stores.items())

    def store(self, path: str) -> int:
        """The open directory of the store *path*. Raises ``StoreMissing``."""
        try:
            return self._stores[path]
        except KeyError:
            raise StoreMissing(f"the store {path} was not found") from None

    def parents(self, path: str) -> Parents:
        """The directories that the store *path* has only as parents. Raises ``StoreMissing``."""
        if path not in self._parents:
            self._parents[path] = Parents(self.store(path))
        return self._parents[path]

    def sync_stores(self) -> None:
        """Write the stores to their disks (syncfs(2)), so that a power cut loses nothing."""
        for path, fd in self._stores.items():
            opened = os.open(mounts.fd_path(fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                kernel.sync_filesystem(opened, path)
            finally:
                os.close(opened)

    def root(self) -> int:
        """The new root, open for reading."""
        if self._root < 0:
            self._root = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._root

    def root_fd(self) -> int:
        """The new root, if it has been opened; else -1."""
        return self._root

    def bare_fd(self) -> int:
        """The copy that ``keep_bare`` has made; -1 without one."""
        return self._bare

    def keep_bare(self) -> None:
        """Keep a copy of the root's mounts as they are now, for ``bare``."""
        if self._bare < 0:
            self._bare = mounts.clone(self.root(), recursive=True, name=self.target)

    def bare(self) -> int:
        """The new root as it was at ``keep_bare``, open; else as it is."""
        return self.root() if self._bare < 0 else self._bare

    def take_prepared(self, path: str) -> str:
        """What ``prepare`` came to for *path*; raises its error."""
        result = self.prepared.pop(path, "")
        if isinstance(result, str):
            return result
        raise result

    def is_fresh(self, path: str) -> bool:
        """Whether this boot wiped the ephemeral target that contains *path*."""
        target = self.wiped_above(path)
        record = self.recall(WIPED)
        # Without a record that is not known: nothing may be taken from a root that may be fresh.
        return target is not None and (record is None or target in record)

    def was_kept(self) -> bool:
        """Whether this is the root of the boot before. A fresh one may have records from its base,
        and what they say is of another time.
        """
        record = self.recall(WIPED)
        return record is not None and "/" not in record

    def wiped_above(self, path: str) -> str | None:
        """The target of the plan that contains *path*; ``None`` if none does."""
        targets = [wipe.target for wipe in self.plan.wipes()]
        above = [t for t in targets if f"{path}/".startswith(t.rstrip("/") + "/")]
        return max(above, key=len, default=None)

    def reserve(self, name: str) -> None:
        """Take the inode and the space for a record that must not fail to be written later.

        Raises ``OSError`` if the run directory has no room for it.
        """
        fd = self._open_new(name)
        try:
            os.posix_fallocate(fd, 0, _RESERVED)
        finally:
            os.close(fd)

    def remember(self, name: str, content: dict[str, object]) -> None:
        """Write a record into the run directory: it lives as long as this boot."""
        self._recalled.pop(name, None)
        encoded = documents.dump(content) + b"\n"
        fd = self._open_new(name)
        try:
            os.fchmod(fd, 0o600)
            paths.write_whole(fd, encoded)
            os.ftruncate(fd, len(encoded))
        finally:
            os.close(fd)
        os.rename(f"{self.run}/{name}.new", f"{self.run}/{name}")

    def _open_new(self, name: str) -> int:
        """The file of the record *name*; not truncated, because its space may have been
        reserved.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(f"{self.run}/{name}.new", flags, 0o600)

    def recall(self, name: str) -> dict[str, object] | None:
        """A record of this boot; ``None`` if there is none, or it is another boot's. It is read
        once: each declared path asks for ``WIPED``, and only a stage with the lock writes it.
        ``remember`` writes changes of it.
        """
        if name not in self._recalled:
            self._recalled[name] = self._read_record(name)
        return self._recalled[name]

    def _read_record(self, name: str) -> dict[str, object] | None:
        try:
            content = documents.parse(documents.read(f"{self.run}/{name}"))
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("boot-id") != self.boot_id:
            return None
        return content

    def is_mounted(self, path: str) -> bool:
        """Whether something is mounted exactly at *path*."""
        return mountinfo.mounted_at(path) is not None

    def resolve(self, path: str) -> str:
        """*path* of the new root, see ``tree.resolve``. The plan has paths without symlinks: raises
        ``EphemerootError`` if this root has one on the way.
        """
        return self._as_planned(path, tree.resolve(self.root(), path))

    def find(self, path: str) -> tree.Place:
        """The same as an open place, see ``tree.find``. Its directory stays open for the next path,
        until ``begin``.
        """
        head = path.rpartition("/")[0]
        if head and head == self.beside:
            found = tree.Place(self._directory, path)
            if found.status is None or not stat.S_ISLNK(found.status.st_mode):
                return found
        place = tree.find(self.root(), path)
        try:
            self._as_planned(path, place.path)
        except BaseException:
            place.close()
            raise
        self.leave_directory()
        if head and place.directory != self.root():
            self.beside, self._directory = head, place.lend()
        return place

    def begin(self, path: str) -> None:
        """Begin the operation on *path*. The directory that ``find`` has opened for the operation
        before stays open if *path* is in it, too: that operation has mounted something inside it
        at most. Otherwise something may have been mounted over it.
        """
        if path.rpartition("/")[0] != self.beside:
            self.leave_directory()

    def leave_directory(self) -> None:
        """Close the directory that ``find`` has left open, which is called ``beside``."""
        if self._directory >= 0:
            os.close(self._directory)
        self.beside, self._directory = "", -1

    def resolve_leaf(self, path: str) -> str:
        """The same, but the last component is left as it is, a symlink or not."""
        return self._as_planned(path, tree.resolve_leaf(self.root(), path))

    def _as_planned(self, path: str, found: str) -> str:
        if found != path:
            raise EphemerootError(
                f"{path} is a link to {found} in this root, but was not a link when the plan was "
                "made",
                "run 'ephemeroot apply', or remove the link from the base",
            )
        return path

    def utab(self) -> str:
        """libmount's table, beside the run directory: /run/mount/utab in a boot."""
        return os.path.dirname(self.run) + "/mount/utab"
