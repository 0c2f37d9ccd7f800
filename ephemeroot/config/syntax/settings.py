"""Every setting there is, declared once.

This table drives the reader, its hints, the JSON Schema and the manual. What a wiper
adds below ``[root.<wiper>]`` comes from the wiper itself (``wipers/contract.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.config.syntax import addresses, device_names, kinds, match
from ephemeroot.hooks.plan import POLICIES, SEED_LIMIT


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. ``default`` is what counts if it is left out; ``help`` is one line."""

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
    """A table whose keys are names of the user's choice (checked by ``key``)."""

    key: kinds.Kind
    table: Table


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of tables; a plain value ``x`` in it is short for ``{ <short> = x }``."""

    table: Table
    short: str = ""


PARENT = Table((
    Setting("user", kinds.Account("user"), "owner of a new parent directory"),
    Setting("group", kinds.Account("group"), "group of a new parent directory"),
    Setting("mode", kinds.Mode(), "mode of a new parent directory"),
))  # fmt: skip

_MOUNT = (
    Setting("hide-mounts", kinds.Boolean(), "hide the binds from file managers (x-gvfs-hide)"),
    Setting("allow-trash", kinds.Boolean(), "let file managers use a trash on the binds "
            "(x-gvfs-trash)"),
    Setting("mount-options", kinds.BindOptions(), "options of the binds, added to those of the "
            "level above", ()),
)  # fmt: skip

_ENTRY = (
    Setting("user", kinds.Account("user"), "owner when it is created in the store"),
    Setting("group", kinds.Account("group"), "group when it is created in the store"),
    Setting("parent-directory", PARENT, "owner, group and mode of the directory it lies in, "
            "when that is created"),
    Setting("store", kinds.AbsolutePath(), "another store for this entry alone"),
    *_MOUNT,
    Setting("initial", kinds.Choice(("previous", "fresh", "empty")), "where its first content "
            "comes from: the previous root, the fresh root, or nowhere", "previous"),
    Setting("required", kinds.Boolean(), "the boot fails if it does; never for users' entries",
            False),
)  # fmt: skip


def _directory(path: kinds.Kind) -> Table:
    return Table((
        Setting("directory", path, "the directory's path", required=True),
        Setting("mode", kinds.Mode(), "mode when it is created in the store"),
        Setting("method", kinds.Choice(("bind", "symlink", "overlay")), "how the root gets it",
                "bind"),
        *_ENTRY,
    ))  # fmt: skip


def _file(path: kinds.Kind) -> Table:
    return Table((
        Setting("file", path, "the file's path", required=True),
        Setting("mode", kinds.Mode(directory=False), "mode when it is created in the store"),
        Setting("method", kinds.Choice(("auto", "bind", "symlink", "copy")), "how the root gets "
                "it; copy for what programs replace by rename", "auto"),
        Setting("first-boot", kinds.Boolean(), "only for /etc/machine-id: let systemd's first "
                "boot happen once", False),
        *_ENTRY,
    ))  # fmt: skip


USER = Table((
    Setting("home", kinds.AbsolutePath(), "the home, if it is not the one in passwd"),
    *_MOUNT,
    Setting("directories", Listed(_directory(kinds.HomePath()), "directory"),
            "directories below the home that persist", ()),
    Setting("files", Listed(_file(kinds.HomePath()), "file"), "files below the home that persist",
            ()),
))  # fmt: skip

STORE = Table((
    Setting("enable", kinds.Boolean(), "false: as if the store were not declared", True),
    *_MOUNT,
    Setting("directories", Listed(_directory(kinds.AbsolutePath()), "directory"),
            "directories that persist", ()),
    Setting("files", Listed(_file(kinds.AbsolutePath()), "file"), "files that persist", ()),
    Setting("users", Named(kinds.Text(), USER), "what persists below users' homes"),
))  # fmt: skip

VOLUME = Table((
    Setting("mount-point", kinds.AbsolutePath(), "where the volume is mounted", required=True),
    Setting("device", kinds.Text(), "what is mounted, as mount(8) takes it", required=True),
    Setting("type", kinds.Text(), "the filesystem's type", required=True),
    Setting("options", kinds.Options(), "mount options", ()),
    Setting("needed-for-boot", kinds.Boolean(), "mount it in the initramfs, before the wipe", True),
    Setting("timeout", kinds.Patience(), "how long to wait for the device; 0 is without end", 90),
))  # fmt: skip
"""Its key ``wipe`` depends on the wiper it names, see ``plugins.volume_table``."""

ROOT = Table((
    Setting("wiper", kinds.Text(), "what makes the root fresh", required=True),
    Setting("external-boot", kinds.Boolean(), "kernel and initramfs are loaded from elsewhere "
            "(network, hypervisor): what lies in the root's /boot does not matter", False),
))  # fmt: skip
"""Beside these, a table for each wiper."""

WHAT_TO_WIPE = (
    Setting("device", device_names.Device(), "the device with the root; by default root= of the "
            "kernel command line"),
    Setting("subvolume", kinds.InnerPath(), "the root's name on it; by default subvol= in "
            "rootflags= of the kernel command line"),
)  # fmt: skip

NETWORK = Table((
    Setting("interface", addresses.Interface(), "the interface, by name or MAC address",
            required=True),
    Setting("address", addresses.InterfaceAddresses(), "its address with the length of its "
            "network, or several", required=True),
    Setting("gateway", addresses.Gateways(), "the default router, or one for each protocol", ()),
))  # fmt: skip

ON_FAILURE = Table(tuple(
    Setting(kind, kinds.Choice(POLICIES[kind]), text, POLICIES[kind][0]) for kind, text in (
        ("wipe", "the root could not be made fresh"),
        ("store", "a volume needed for boot is missing or is the wrong one"),
        ("path", "a declared path failed"),
    )
))  # fmt: skip

MATCH = Table((
    Setting("host-name", match.HostNames(), "host names (glob patterns), of which one must fit"),
    Setting("machine-id", match.MachineIds(), "machine ids, of which one must be this machine's"),
))  # fmt: skip

TOP = Table((
    Setting("seed-limit", kinds.Size(), "how much may be copied into a store for one newly "
            "declared path while the machine boots; more is for 'ephemeroot adopt'", SEED_LIMIT),
    Setting("on-failure", ON_FAILURE, "what happens when something fails"),
    Setting("on-package-change", kinds.Choice(("warn", "redirect", "both", "off")), "what happens "
            "when a package manager changes the running root: a line that says what the next boot "
            "forgets, a refusal (automatic upgrades are done in the base), the same change in the "
            "base, or nothing", "warn"),
    Setting("network", NETWORK, "a static network for volumes that are on one, where nothing else "
            "sets one up in the initramfs"),
    Setting("volumes", Listed(VOLUME), "volumes beside those in /etc/fstab", ()),
    Setting("persistence", Named(kinds.AbsolutePath(), STORE), "stores, and what persists in them"),
))  # fmt: skip
"""Beside these, ``root``, and ``match`` in drop-ins."""
