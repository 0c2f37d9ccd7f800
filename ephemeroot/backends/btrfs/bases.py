"""The place of the base, and the old bases: a history like that of the root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeroot.backends import contract
from ephemeroot.backends.btrfs import nested
from ephemeroot.errors import Refused
from ephemeroot.linux.namespace import Namespace
from ephemeroot.wipers import marks
from ephemeroot.wipers.btrfs import changed_since, directories, subvolumes
from ephemeroot.wipers.btrfs.history import SubvolumeHistory
from ephemeroot.wipers.btrfs.present import Present
from ephemeroot.wipers.btrfs.recovery import Recovery
from ephemeroot.wipers.btrfs.rotation import SubvolumeRotation
from ephemeroot.wipers.btrfs.toplevel import Toplevel
from ephemeroot.wipers.contract import Boot, Outcome, Wiper
from ephemeroot.wipers.oldroot import OldRoot
from ephemeroot.wipers.pruning import Clock, Pruning
from ephemeroot.wipers.retention import Policy


@dataclass(frozen=True)
class Place:
    """``device`` holds the root's subvolume ``root`` and the one it is made from, ``base``.

    Paths are from the top level. ``old_bases`` has the old bases, ``keep`` is the
    number that stays. ``options`` are for mounting the top level.
    """

    device: str
    root: str
    base: str
    old_bases: str
    keep: int
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, wiper: Wiper, device: str, subvolume: str | None) -> Place:
        """The place that these settings of the root's wiper name. Raises ``Refused``."""
        settings = wiper.settings
        base = str(settings.get("base") or "").strip("/")
        if not base:
            raise Refused(
                "the configuration does not name a base: fresh roots are empty",
                'set base in [root.btrfs], for example base = "root-base"',
            )
        root = (subvolume or "").strip("/")
        if not root:
            raise Refused(
                "the root's subvolume is named neither in the configuration nor in rootflags=",
                "set subvolume in [root.btrfs]",
            )
        keep = settings.get("keep-bases")
        options = settings.get("mount-options")
        return cls(
            device=device,
            root=root,
            base=base,
            old_bases=str(settings["old-bases"]).strip("/"),
            keep=keep if isinstance(keep, int) else 3,
            options=tuple(str(o) for o in options) if isinstance(options, (list, tuple)) else (),
        )


class Bases(SubvolumeHistory):
    """The base, which is rotated like a root, with ``old-bases`` as its history.

    No old base is never pruned for being the first: all it has that later ones lack is
    older packages.
    """

    NOUN = "base"
    LISTED_BY = "base list"

    def has_first(self) -> bool:
        return True

    def __enter__(self) -> Bases:
        return self


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Opened(contract.Bases):
    """An open place: ``top`` is its private mount, ``bases`` the locked history."""

    def __init__(self, place: Place, private: str, bases: Bases) -> None:
        self.place = place
        self.private = private
        self.bases = bases
        self.top = bases.top
        self.name = place.base
        self.root = place.root
        self.path = Path(self.top.path, place.base)
        self.parent = bases.parent

    def temporary(self, path: str) -> str:
        return os.path.relpath(path, self.top.path)

    def subvolume(self, path: str) -> int:
        """The open subvolume *path*; -1 if it is missing. Raises ``Refused``
        if it is not a subvolume.
        """
        try:
            fd = directories.open_real(self.top.fd, path, "the subvolume")
        except FileNotFoundError:
            return -1
        if not subvolumes.is_subvolume(fd):
            os.close(fd)
            raise Refused(f"{path!r} is a plain directory, not a subvolume")
        return fd

    def uuid(self, path: str) -> str | None:
        """The UUID of the subvolume *path*, ``None`` if it is missing."""
        fd = self.subvolume(path)
        if fd < 0:
            return None
        try:
            return self.identify(fd)
        finally:
            os.close(fd)

    def present(self) -> int:
        return self.subvolume(self.name)

    def identity(self) -> str | None:
        return self.uuid(self.name)

    def identify(self, fd: int) -> str:
        return subvolumes.identify(fd).uuid

    def is_writable(self, fd: int) -> bool:
        return not subvolumes.is_read_only(fd)

    def made(self, fd: int) -> int:
        return int(subvolumes.library().subvolume_info(f"/proc/self/fd/{fd}").otime)

    def old(self) -> list[OldRoot]:
        return self.bases.retired()

    def find(self, name: str) -> OldRoot:
        return self.bases.find(name)

    def open(self, entry: OldRoot) -> int:
        return self.bases.open(entry)

    def measure(self, entry: OldRoot, deadline: float) -> int | None:
        return self.bases.measure(entry, deadline)

    def replaced(self) -> Iterator[tuple[str, int]]:
        for entry in self.bases.retired():
            yield entry.label, self.bases.open(entry)
        for directory, leftover in self.bases.leftovers():
            fd = directories.subvolume(directory, leftover.text)
            if fd >= 0:
                yield str(leftover.name), fd

    def running(self) -> int:
        if self.uuid(self.root) != _mounted_at(self.here):
            if self.here != "/":
                raise Refused(
                    f"{self.here} is not the subvolume {self.root!r} on {self.place.device}",
                    f"mount that subvolume at {self.here} ('findmnt {self.here}' shows the present "
                    "one)",
                )
            raise Refused(
                f"the running root is not the subvolume {self.root!r} on {self.place.device}",
                "boot it, or name the mounted subvolume ('findmnt /' shows it)",
            )
        return self.subvolume(self.root)

    def origin(self) -> int:
        with Present(self.top, self.here) as present:
            origin = present.origin()
            try:
                if origin >= 0:
                    present.require_unchanged(origin)
            except BaseException:
                os.close(origin)
                raise
            return origin

    def changed_since_origin(self) -> Callable[[str, int], bool] | None:
        self.commit()  # recent writes are not in the tree yet
        with Present(self.top, self.here) as present:
            found = present.changed_since()
        return None if found is None else lambda path, inode: inode in found

    def omitted(self, fd: int) -> list[str]:
        return nested.omitted(fd)

    def replace(
        self,
        prove: Callable[[str], None],
        log: Callable[[str], None],
        *,
        of_root: bool = False,
        old: str | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """An administrator's clock is believed: nothing here goes by age."""
        now = time.time()
        boot = Boot(
            device=self.place.device,
            subvolume=self.name,
            target="/",
            private=self.private,
            boot_id="",
            now=now,
            synchronised=True,
            prove=prove,
            log=log,
            request=old,
            dry_run=dry_run,
            budget=60.0,
        )
        policy = Policy(0, self.place.keep, counted_by="keep-bases")
        pruning = Pruning(self.bases, policy, Clock(now, synchronised=True))
        source = self.root if of_root else self.name
        return SubvolumeRotation(boot, self.bases, pruning, base=source, set_default=False).run()

    def changed_since(self, copy: int, base: int) -> Callable[[str, int], bool] | None:
        info = subvolumes.library().subvolume_info(f"/proc/self/fd/{copy}")
        found = changed_since.since(copy, info.otransid + 1, origin=base)
        return None if found is None else lambda path, inode: inode in found

    def keep(self, copy: int) -> None:
        marks.set_state(copy, self.identify(copy), marks.BOOT_COMPLETE)

    def empty(self, copy: int) -> None:
        for _, number in subvolumes.nested(copy, subvolumes.identify(copy).id):
            subvolumes.delete(self.top.fd, number)

    def recover(self, log: Callable[[str], None]) -> None:
        for directory, leftover in self.bases.leftovers():
            line = Recovery(self.bases, directory, leftover).execute()
            if line:
                log(line)

    def commit(self) -> None:
        self.top.commit()


def _mounted_at(path: str) -> str | None:
    """The UUID of the subvolume that is mounted at *path*; ``None`` if another filesystem is
    mounted there.
    """
    fd = os.open(path, _DIRECTORY)
    try:
        if not subvolumes.is_subvolume(fd):
            return None
        return subvolumes.identify(fd).uuid
    except OSError:  # no btrfs at all
        return None
    finally:
        os.close(fd)


@contextmanager
def opened(place: Place, private: Namespace, *, writable: bool = False) -> Iterator[Opened]:
    """*place*, mounted in the namespace *private*, locked until the end. Unless *writable* it is
    mounted read-only; else a missing ``old-bases`` is made.

    Raises ``Refused`` or ``Locked``.
    """
    directory = private.directory()
    top = Toplevel(place.device, list(place.options), directory, writable=writable)
    try:
        with Bases(top, place.base, place.old_bases, create=writable) as bases:
            yield Opened(place, directory, bases)
    finally:
        top.close()
