"""The configuration as it was written: typed and checked value by value, nothing looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ephemeroot.config.plugins import Plugin
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.config.syntax.settings import Binding, DirectoryOptions, Options
from ephemeroot.hooks.operations.volumes import SUBDIRECTORY
from ephemeroot.hooks.plan import SEED_LIMIT
from ephemeroot.linux import units
from ephemeroot.machine.fstab import FstabLine, option

VOLATILE = ("tmpfs", "ramfs", "overlay", "devtmpfs")
OWNERLESS = ("cifs", "smb3", "vfat", "msdos", "exfat")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a table was written and where each of its keys; which of them were no use."""

    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def of(self, key: str) -> Place:
        """Where *key* was written, else where the table was."""
        return self.keys.get(key, self.place)


@dataclass(frozen=True, slots=True)
class Wiping:
    """What is to be made fresh and how. ``settings`` has every option of the wiper.

    ``plugin`` is ``None`` if the wiper is unknown or broken (that is a problem already).
    """

    wiper: str
    plugin: Plugin | None
    settings: Mapping[str, object]
    device: str | None
    subvolume: str | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class Volume:
    """A mounted filesystem other than the root, from ``[[volumes]]`` or a line of fstab.

    ``device`` or ``type`` are empty if they were no use. A configuration has the ``options`` as
    written; those of a resolved volume are for the kernel. One that is not ``needed_for_boot`` is
    nothing to the initramfs; ``line`` is the one in fstab, if it comes from there.
    """

    mount_point: str
    device: str
    type: str
    options: tuple[str, ...]
    timeout: int
    needed_for_boot: bool
    wipe: Wiping | None
    place: Place
    line: FstabLine | None = None

    @property
    def name(self) -> str:
        """The name of its private mount."""
        return units.escape_path(self.mount_point)

    @property
    def persists(self) -> bool:
        """Whether its content is there after the next boot."""
        return self.wipe is None and self.type not in VOLATILE

    @property
    def is_volatile(self) -> bool:
        """Whether its type keeps nothing at all."""
        return self.type in VOLATILE

    @property
    def is_ownerless(self) -> bool:
        """Whether its type keeps no owners and modes: chown(2) and chmod(2) fail, or do nothing."""
        return self.type in OWNERLESS

    @property
    def subvolume(self) -> str:
        """``subvol=`` without leading slashes; empty for the default or the top level."""
        return (option(self.options, "subvol") or "").strip("/")

    @property
    def directory(self) -> str:
        """The directory of the filesystem that is mounted (X-mount.subdir=, mount(8)) without
        slashes around it; empty for all of it.
        """
        return (option(self.options, SUBDIRECTORY.rstrip("=")) or "").strip("/")

    def inside(self, path: str) -> str:
        """Where the machine's *path*, which is on this volume, is on the filesystem itself."""
        below = path if self.mount_point == "/" else path[len(self.mount_point) :]
        parts = (self.subvolume, self.directory, below.strip("/"))
        return "/".join(part for part in parts if part)

    def how_to_need(self) -> str:
        """The hint that makes it needed for boot."""
        if self.line is not None:
            return f"change its line in fstab to: {self.line.with_initrd()}"
        return f"set needed-for-boot = true ({self.place})"


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """``[network]``: ``addresses`` with the length of their network, ``gateways`` without."""

    interface: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Entry:
    """A declared directory or file; ``path`` is relative for a user's entry."""

    path: str
    options: Options
    parent_origin: Origin
    origin: Origin

    @property
    def is_directory(self) -> bool:
        """Whether a directory is declared, else a file."""
        return isinstance(self.options, DirectoryOptions)


@dataclass(frozen=True, slots=True)
class UserEntry:
    """``users.<name>`` of a store."""

    name: str
    home: str | None
    binding: Binding
    entries: tuple[Entry, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """``[persistence."<path>"]``."""

    path: str
    binding: Binding
    entries: tuple[Entry, ...]
    users: tuple[UserEntry, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files together. ``stores`` are the enabled ones, in the order they were declared.

    ``files`` are those that count, ``elsewhere`` those whose ``[match]`` is for other machines.
    ``set_by_drop_ins`` are the places of single values in drop-ins, each with the places of what
    it replaced, the latest last.

    ``problems`` is what reading found. ``complete`` is false if a part could not be
    read at all, so that what seems to be missing may only be unread.
    """

    files: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    set_by_drop_ins: tuple[tuple[Place, tuple[Place, ...]], ...] = ()
    wiping: Wiping | None = None
    external_boot: bool = False
    seed_limit: int = SEED_LIMIT
    on_failure: Mapping[str, str] = field(default_factory=dict)
    on_package_change: str = "warn"
    network: NetworkEntry | None = None
    volumes: tuple[Volume, ...] = ()
    stores: tuple[StoreEntry, ...] = ()
    disabled: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    complete: bool = True
