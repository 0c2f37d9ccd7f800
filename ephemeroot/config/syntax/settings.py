"""The declarations of all settings.

The reader, its hints, the JSON Schema and the tests of the manual use them. Each wiper declares its
settings in ``[root.<wiper>]`` itself (``wipers/contract.py``).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self

from ephemeroot.config.syntax import addresses, device_names, kinds, match, quantities
from ephemeroot.hooks.operation import INITIAL
from ephemeroot.hooks.operations import directories, files
from ephemeroot.hooks.plan import POLICIES, SEED_LIMIT


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. ``default`` is the value of a missing key; ``help`` is one line."""

    name: str
    kind: kinds.Kind | Table | Named | Listed
    help: str
    default: object = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table with these keys and no others."""

    settings: tuple[Setting, ...]

    def names(self) -> list[str]:
        """The keys, in the order of the manual."""
        return [setting.name for setting in self.settings]

    def setting(self, name: str) -> Setting | None:
        """The setting called *name*."""
        return next((setting for setting in self.settings if setting.name == name), None)


@dataclass(frozen=True, slots=True)
class Named:
    """A table whose keys are arbitrary names, which ``key`` checks."""

    key: kinds.Kind
    table: Table


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of tables; a plain value ``x`` in it is short for ``{ <short> = x }``."""

    table: Table
    short: str = ""


def _key(kind: kinds.Kind | Table, help: str) -> dict[str, Any]:
    """The metadata of a field that declares a key."""
    return {"kind": kind, "help": help}


def keys(class_: type[Any]) -> tuple[Setting, ...]:
    """The keys that *class_* declares by ``_key``: the field ``hide_mounts`` is ``hide-mounts``."""
    return tuple(
        Setting(
            one.name.replace("_", "-"),
            one.metadata["kind"],
            one.metadata["help"],
            None if one.default is MISSING else one.default,
        )
        for one in fields(class_)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Owner, group (names or numbers) and mode; ``None`` is the default."""

    user: str | int | None = field(
        default=None, metadata=_key(kinds.Account("user"), "owner of a new parent directory")
    )
    group: str | int | None = field(
        default=None, metadata=_key(kinds.Account("group"), "group of a new parent directory")
    )
    mode: int | None = field(
        default=None, metadata=_key(kinds.Mode(), "mode of a new parent directory")
    )


PARENT = Table(keys(Permissions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The options of binds, for a store, a user or an entry; ``None`` is not set."""

    hide_mounts: bool | None = field(
        default=None,
        metadata=_key(kinds.Boolean(), "hide the binds from file managers (x-gvfs-hide)"),
    )
    allow_trash: bool | None = field(
        default=None,
        metadata=_key(kinds.Boolean(), "let file managers use a trash on the binds (x-gvfs-trash)"),
    )
    mount_options: tuple[str, ...] = field(
        default=(),
        metadata=_key(
            kinds.BindOptions(), "options of the binds, added to those of the level above"
        ),
    )

    def under(self, above: Binding) -> Self:
        """These options merged with those of the level *above*; this level takes precedence."""
        options = [*above.mount_options, *self.mount_options]
        return replace(
            self,
            hide_mounts=above.hide_mounts if self.hide_mounts is None else self.hide_mounts,
            allow_trash=above.allow_trash if self.allow_trash is None else self.allow_trash,
            mount_options=tuple(o for n, o in enumerate(options) if o not in options[n + 1 :]),
        )

    @property
    def marks(self) -> tuple[bool | None, bool | None, tuple[str, ...]]:
        """All options, for comparisons."""
        return self.hide_mounts, self.allow_trash, self.mount_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Binding):
    """The options of an entry. The plan gets the same values: each operation has fields with the
    names of its keys (``plan/compile.py``).
    """

    user: str | int | None = field(
        default=None,
        metadata=_key(kinds.Account("user"), "owner when it is created in the store"),
    )
    group: str | int | None = field(
        default=None,
        metadata=_key(kinds.Account("group"), "group when it is created in the store"),
    )
    mode: int | None = field(
        default=None, metadata=_key(kinds.Mode(), "mode when it is created in the store")
    )
    method: str = field(
        default=directories.METHODS[0],
        metadata=_key(
            kinds.Choice((*directories.METHODS, "overlay")), "how the root gets the content"
        ),
    )
    parent_directory: Permissions = field(
        default_factory=Permissions,
        metadata=_key(PARENT, "owner, group and mode of the directory above it, if created"),
    )
    store: str | None = field(
        default=None,
        metadata=_key(kinds.AbsolutePath(), "another store, only for this entry"),
    )
    initial: str = field(
        default=INITIAL[0],
        metadata=_key(
            kinds.Choice(INITIAL),
            "the source of its first content: the previous root, the new root, or none",
        ),
    )
    required: bool = field(
        default=False,
        metadata=_key(
            kinds.Boolean(), "a failure of this entry stops the boot; not for users' entries"
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOptions(Options):
    """The options of a directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions(Options):
    """The options of a file."""

    mode: int | None = field(
        default=None,
        metadata=_key(kinds.Mode(directory=False), "mode when it is created in the store"),
    )
    method: str = field(
        default=files.METHODS[0],
        metadata=_key(
            kinds.Choice((*files.METHODS, "copy")),
            "how the root gets the content; use copy for files that programs replace by rename",
        ),
    )
    first_boot: bool = field(
        default=False,
        metadata=_key(
            kinds.Boolean(), "only for /etc/machine-id: let systemd do its first-boot setup once"
        ),
    )


OPTIONS: dict[str, type[Options]] = {"directory": DirectoryOptions, "file": FileOptions}
"""The options of each kind of entry, by the key of the path."""


def _entry(what: str, path: kinds.Kind) -> Listed:
    named = Setting(what, path, f"the path of the {what}", required=True)
    return Listed(Table((named, *keys(OPTIONS[what]))), what)


USER = Table((
    Setting("home", kinds.AbsolutePath(), "the home, if it differs from that in passwd"),
    *keys(Binding),
    Setting("directories", _entry("directory", kinds.HomePath()),
            "persistent directories in the home", ()),
    Setting("files", _entry("file", kinds.HomePath()), "persistent files in the home",
            ()),
))  # fmt: skip

STORE = Table((
    Setting("enable", kinds.Boolean(), "whether the store is used", True),
    *keys(Binding),
    Setting("directories", _entry("directory", kinds.AbsolutePath()),
            "persistent directories", ()),
    Setting("files", _entry("file", kinds.AbsolutePath()), "persistent files", ()),
    Setting("users", Named(kinds.Text(), USER), "persistent paths in users' homes"),
))  # fmt: skip

VOLUME = Table((
    Setting("mount-point", kinds.AbsolutePath(), "the mount point of the volume", required=True),
    Setting("device", kinds.Text(), "the device or share, as mount(8) takes it", required=True),
    Setting("type", kinds.Text(), "the type of the filesystem", required=True),
    Setting("options", kinds.Options(), "mount options", ()),
    Setting("needed-for-boot", kinds.Boolean(), "mount it in the initramfs, before the wipe", True),
    Setting("timeout", quantities.Patience(), "how long to wait for the device; 0 waits without "
                                              "limit",
            90),
))  # fmt: skip
"""Without ``wipe``, whose keys depend on the wiper, see ``plugins.volume_table``."""

ROOT = Table((
    Setting("wiper", kinds.Text(), "the wiper of the root", required=True),
    Setting("external-boot", kinds.Boolean(), "whether kernel and initramfs are loaded from "
            "elsewhere (network, hypervisor), and not from /boot of the root", False),
))  # fmt: skip
"""There is also a table for each wiper."""

WHAT_TO_WIPE = (
    Setting("device", device_names.Device(), "the device with the root; by default root= of the "
            "kernel command line"),
    Setting("subvolume", kinds.InnerPath(), "the subvolume of the root on the device; by default "
            "subvol= in rootflags= of the kernel command line"),
)  # fmt: skip

NETWORK = Table((
    Setting("interface", addresses.Interface(), "the interface, by name or MAC address",
            required=True),
    Setting("address", addresses.InterfaceAddresses(), "its address with the prefix length, or "
            "several", required=True),
    Setting("gateway", addresses.Gateways(), "the default router, or one for each protocol", ()),
))  # fmt: skip

ON_FAILURE = Table(tuple(
    Setting(kind, kinds.Choice(POLICIES[kind]), text, POLICIES[kind][0]) for kind, text in (
        ("wipe", "the reaction if the wipe of the root fails"),
        ("store", "the reaction if a volume needed for boot is missing or is another one"),
        ("path", "the reaction if a declared path fails"),
    )
))  # fmt: skip

MATCH = Table((
    Setting("host-name", match.HostNames(), "host names (glob patterns), of which one must match"),
    Setting("machine-id", match.MachineIds(), "machine ids, of which one must match"),
))  # fmt: skip

TOP = Table((
    Setting("seed-limit", quantities.Size(), "limit for seeding one newly declared path during the "
            "boot; use 'ephemeroot adopt' for larger paths", SEED_LIMIT),
    Setting("on-failure", ON_FAILURE, "the reaction to failures"),
    Setting("on-package-change", kinds.Choice(("warn", "redirect", "both", "off")), "the reaction "
            "when a package manager changes the running root: print the packages that the next "
            "boot forgets, refuse (and upgrade the base instead), repeat the change in the base, "
            "or none", "warn"),
    Setting("network", NETWORK, "a static network for network volumes, if the initramfs does not "
            "set it up otherwise"),
    Setting("volumes", Listed(VOLUME), "volumes in addition to those in /etc/fstab", ()),
    Setting("persistence", Named(kinds.AbsolutePath(), STORE), "stores and their persistent paths"),
))  # fmt: skip
"""There are also ``root``, and ``match`` in drop-ins."""
