"""The configuration before any look-up: typed values, each checked by itself."""

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
    """The place of a table and of each of its keys. ``broken`` are keys with invalid values."""

    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def of(self, key: str) -> Place:
        """The place of *key*, else that of the table."""
        return self.keys.get(key, self.place)


@dataclass(frozen=True, slots=True)
class Wiping:
    """The wipe of the root or of a volume. ``settings`` has all options of the wiper.

    ``plugin`` is ``None`` if the wiper is unknown or broken, which is noted as a problem.
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

    ``device`` and ``type`` are empty if they are invalid. ``options`` are those of the
    configuration, or, in a resolved volume, those for the kernel. The initramfs mounts only volumes
    that are ``needed_for_boot``. ``line`` is the line in fstab, if the volume is from there.
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
        """Whether its content survives the next boot."""
        return self.wipe is None and self.type not in VOLATILE

    @property
    def is_volatile(self) -> bool:
        """Whether its filesystem type is in memory."""
        return self.type in VOLATILE

    @property
    def is_ownerless(self) -> bool:
        """Whether its type stores no owners and modes: chown(2) and chmod(2) fail or do nothing."""
        return self.type in OWNERLESS

    @property
    def subvolume(self) -> str:
        """``subvol=`` without leading slashes; empty for the default or the top level."""
        return (option(self.options, "subvol") or "").strip("/")

    @property
    def directory(self) -> str:
        """The mounted directory of the filesystem (X-mount.subdir=, mount(8)) without leading and
        trailing slashes; empty for the whole filesystem.
        """
        return (option(self.options, SUBDIRECTORY.rstrip("=")) or "").strip("/")

    def inside(self, path: str) -> str:
        """The path on the filesystem of the machine's *path*, which must be on this volume."""
        below = path if self.mount_point == "/" else path[len(self.mount_point) :]
        parts = (self.subvolume, self.directory, below.strip("/"))
        return "/".join(part for part in parts if part)

    def how_to_need(self) -> str:
        """The hint how to make it needed for boot."""
        if self.line is not None:
            return f"change its line in fstab to: {self.line.with_initrd()}"
        return f"set needed-for-boot = true ({self.place})"


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """``[network]``: ``addresses`` have a prefix length, ``gateways`` do not."""

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
        """Whether it is a directory and not a file."""
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
    """The merged configuration of all files. ``stores`` are the enabled ones, in the order of the
    configuration.

    ``files`` are the files for this machine, ``elsewhere`` those whose ``[match]`` is for other
    machines. ``set_by_drop_ins`` are the places of single values in drop-ins, each with the places
    of the replaced values, the latest last.

    ``problems`` are those of the reading. ``complete`` is false if a part could not be read, so
    that a missing key may only be unread.
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
