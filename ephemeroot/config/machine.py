"""What the configuration is compiled against: the facts of one machine."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ephemeroot.config import fstab, markers, sources
from ephemeroot.config.accounts import Accounts
from ephemeroot.config.labels import Labels
from ephemeroot.errors import Misconfigured
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.linux import mountinfo

_MACHINE_ID = re.compile(r"[0-9a-f]{32}")

# What a boot loader reads, and what it is made of; below the root.
_BOOT_FILES = (
    "boot/vmlinuz*", "boot/vmlinux*", "boot/Image*", "boot/initrd*", "boot/initramfs*",
    "boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/loader/loader.conf",
    "boot/extlinux/extlinux.conf", "boot/EFI", "boot/efi/EFI", "efi/EFI",
)  # fmt: skip

# dpkg, rpm (old and new place), pacman, xbps, portage, apk.
PACKAGE_DATABASES = (
    "/var/lib/dpkg", "/var/lib/rpm", "/usr/lib/sysimage/rpm", "/var/lib/pacman", "/var/db/xbps",
    "/var/db/pkg", "/lib/apk/db",
)  # fmt: skip

_HOST_KEYS = "etc/ssh/ssh_host_*_key"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's facts.

    ``root`` is the directory that is its root now. ``command_lines`` are kernel command
    lines by the file they were read from, the one that counts most first. ``mounted``
    are the mount points in use now, if this is the running machine. The lists of paths
    are as the machine sees them. ``store_ids`` are the ids of stores by path; for one
    that is not in it, ``store_id`` reads the store's marker. ``generation`` is the
    plan's, ``labels`` the SELinux policy's, ``memory`` in bytes; 0 if it is not this machine
    that is looked at.
    """

    root: str = "/"
    host_name: str = ""
    machine_id: str | None = None
    fstab: tuple[fstab.FstabLine, ...] = ()
    accounts: Accounts = field(default_factory=Accounts)
    command_lines: tuple[tuple[str, str], ...] = ()
    mounted: frozenset[str] = frozenset()
    boot_files: tuple[str, ...] = ()
    package_databases: tuple[str, ...] = ()
    host_keys: tuple[str, ...] = ()
    store_ids: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    labels: Labels = field(default_factory=Labels)
    memory: int = 0

    @classmethod
    def of(cls, root: str = "/") -> Machine:
        """The machine whose root is the directory *root*; ``/`` is this one.

        Raises ``Misconfigured`` if that is no directory.
        """
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise Misconfigured(f"{root} is no directory", "--root names the root of a machine")
        live = root == "/"
        host = os.uname().nodename if live else (sources.read_text(root, "/etc/hostname") or "")
        identity = (sources.read_text(root, "/etc/machine-id") or "").strip()
        return cls(
            root=root,
            host_name=host.strip(),
            machine_id=identity if _MACHINE_ID.fullmatch(identity) else None,
            fstab=tuple(fstab.parse(sources.read_text(root, "/etc/fstab") or "")),
            accounts=Accounts.of(root),
            command_lines=_command_lines(root),
            mounted=frozenset(m.point for m in mountinfo.mounts()) if live else frozenset(),
            boot_files=_existing(root, *_BOOT_FILES),
            package_databases=_existing(root, *(path[1:] for path in PACKAGE_DATABASES)),
            host_keys=_existing(root, _HOST_KEYS),
            labels=Labels.of(root),
            memory=_memory() if live else 0,
        )

    def show(self, path: str) -> str:
        """A path of the machine as a path from here, for messages."""
        return sources.show(self.root, path)

    def store_id(self, path: str) -> str | None:
        """The id of the store at *path*, ``None`` if it has no marker yet.

        Raises ``Damaged`` if it has one that cannot be read.
        """
        if path in self.store_ids:
            return self.store_ids[path]
        return markers.read(self.show(path))


def command_line(text: str) -> CommandLine:
    """A kernel command line taken apart as the boot code does it."""
    return CommandLine(text)


def _command_lines(root: str) -> tuple[tuple[str, str], ...]:
    """The running kernel's, if it is this machine's, and what kernel-install(8) will use."""
    files = ["/proc/cmdline"] if root == "/" else []
    files.append("/etc/kernel/cmdline")
    texts = [(sources.show(root, path), sources.read_text(root, path)) for path in files]
    return tuple((path, text) for path, text in texts if text is not None)


def _memory() -> int:
    """What a tmpfs could fill without swap, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _existing(root: str, *patterns: str) -> tuple[str, ...]:
    """Which of *patterns* (relative to *root*) exist, as the machine sees them."""
    found = {path for pattern in patterns for path in glob.glob(pattern, root_dir=root)}
    return tuple(f"/{path}" for path in sorted(found))
