"""Where the base lies, and the bases that were: a history like that of the root."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ephemeroot.errors import Refused
from ephemeroot.linux.namespace import Namespace
from ephemeroot.wipers.btrfs import Btrfs, directories, subvolumes
from ephemeroot.wipers.btrfs.history import SubvolumeHistory
from ephemeroot.wipers.btrfs.rotation import SubvolumeRotation
from ephemeroot.wipers.btrfs.toplevel import Toplevel
from ephemeroot.wipers.contract import Boot
from ephemeroot.wipers.pruning import Clock, Pruning
from ephemeroot.wipers.retention import Policy


@dataclass(frozen=True)
class Place:
    """``device`` holds the root's subvolume ``root`` and the one it is made from, ``base``.

    Paths are from the top level. ``old_bases`` has the bases that were, ``keep`` how many
    of them stay. ``options`` are for mounting the top level.
    """

    device: str
    root: str
    base: str
    old_bases: str
    keep: int
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, wiper: Btrfs, device: str, subvolume: str | None) -> Place:
        """The place that these settings of the root's wiper name. Raises ``Refused``."""
        settings = wiper.settings
        base = str(settings.get("base") or "").strip("/")
        if not base:
            raise Refused(
                "the configuration names no base: fresh roots are empty",
                'set base in [root.btrfs], for example base = "root-base"',
            )
        root = (subvolume or "").strip("/")
        if not root:
            raise Refused(
                "neither the configuration nor rootflags= names the root's subvolume",
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
    """The base as what is rotated, ``old-bases`` as its history.

    No old base is kept for ever for being the first: all it has that later ones lack is
    older packages.
    """

    NOUN = "base"
    LISTED_BY = "base list"

    def has_first(self) -> bool:
        return True

    def __enter__(self) -> Bases:
        return self


class Opened:
    """A place at work: ``top`` is its private mount, ``bases`` the locked history."""

    def __init__(self, place: Place, private: str, bases: Bases) -> None:
        self.place = place
        self.private = private
        self.bases = bases
        self.top = bases.top

    def path(self, subvolume: str) -> str:
        """The path of *subvolume* (or of anything from the top level) in the private mount."""
        return f"{self.top.path}/{subvolume}"

    def relative(self, path: str) -> str:
        """The same the other way: from the top level."""
        return os.path.relpath(path, self.top.path)

    def subvolume(self, path: str) -> int:
        """The open subvolume *path*; -1 if nothing is there. Raises ``Refused`` for what is
        there and is no subvolume.
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
        """The UUID of the subvolume *path*, ``None`` if nothing is there."""
        fd = self.subvolume(path)
        if fd < 0:
            return None
        try:
            return subvolumes.identify(fd).uuid
        finally:
            os.close(fd)

    def rotation(
        self,
        prove: Callable[[str], None],
        log: Callable[[str], None],
        *,
        source: str | None = None,
        old: str | None = None,
        dry_run: bool = False,
    ) -> SubvolumeRotation:
        """Make a base that is a copy of the subvolume *source* (the base itself), or of the
        *old* base of that name, and put it in the place of the base.

        *prove* gets the path of the copy before it takes that place, and may work in it.
        An administrator's clock is believed: nothing here goes by age.
        """
        now = time.time()
        boot = Boot(
            device=self.place.device,
            subvolume=self.place.base,
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
        pruning = Pruning(self.bases, Policy(0, self.place.keep), Clock(now, synchronised=True))
        return SubvolumeRotation(
            boot, self.bases, pruning, base=source or self.place.base, set_default=False
        )


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
