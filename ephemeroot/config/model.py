"""The configuration as it was written: typed and checked value by value, nothing looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ephemeroot.config.plugins import Plugin
from ephemeroot.config.syntax.problem import Place, Problem
from ephemeroot.hooks.plan import SEED_LIMIT


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
class VolumeEntry:
    """An item of ``[[volumes]]``. ``device`` or ``type`` are empty if they were no use."""

    mount_point: str
    device: str
    type: str
    options: tuple[str, ...]
    needed_for_boot: bool
    timeout: int
    wipe: Wiping | None
    origin: Origin


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """``[network]``: ``addresses`` with the length of their network, ``gateways`` without."""

    interface: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Binding:
    """How binds are marked: on the store, a user or an entry; ``None`` says nothing."""

    hide: bool | None = None
    trash: bool | None = None
    options: tuple[str, ...] = ()

    def under(self, above: Binding) -> Binding:
        """This level merged onto the one *above*; of the same option the last one counts."""
        options = [*above.options, *self.options]
        return Binding(
            above.hide if self.hide is None else self.hide,
            above.trash if self.trash is None else self.trash,
            tuple(o for n, o in enumerate(options) if o not in options[n + 1 :]),
        )


@dataclass(frozen=True, slots=True)
class Permissions:
    """Owner, group (names or numbers) and mode; ``None`` leaves it to the default."""

    user: str | int | None = None
    group: str | int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A declared directory or file; ``path`` is relative for a user's entry."""

    path: str
    is_directory: bool
    permissions: Permissions
    parent: Permissions
    parent_origin: Origin
    store: str | None
    method: str
    binding: Binding
    initial: str
    required: bool
    first_boot: bool
    origin: Origin


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
    volumes: tuple[VolumeEntry, ...] = ()
    stores: tuple[StoreEntry, ...] = ()
    disabled: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    complete: bool = True
