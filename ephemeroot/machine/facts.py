"""The facts of one machine, against which the configuration is compiled."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ephemeroot.errors import Damaged, Misconfigured
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.records import MARKER
from ephemeroot.linux import documents, mountinfo
from ephemeroot.machine import files, fstab
from ephemeroot.machine.accounts import Accounts
from ephemeroot.machine.labels import Labels

_MACHINE_ID = re.compile(r"[0-9a-f]{32}")

# Files of boot loaders, and their configuration; relative to the root.
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

    ``root`` is the directory of its present root. ``host_name`` is the static name, which does not
    change with the network, ``live_name`` the present name of the running machine.
    ``command_lines`` are kernel command lines by file, the one with the highest precedence first.
    ``mounted`` are the present mount points, if this is the running machine. Lists of paths are
    relative to the machine's root. ``store_ids`` are the ids of stores by path; for other paths,
    ``store_id`` reads the store's marker. ``generation`` is the plan's, ``labels`` are the SELinux
    policy's, ``memory`` is in bytes, 0 if this is not the running machine. ``another``: a machine
    of which only name and id are known, but not its boot loader and its stores. ``root_mount`` is
    the mount of ``root``; ``live``: this is the running machine. ``unread`` are existing files that
    could not be read. ``system`` is the id by which it owns its old roots, see ``Plan.system``.
    """

    root: str = "/"
    host_name: str = ""
    live_name: str = ""
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
    another: bool = False
    live: bool = False
    system: str = ""
    root_mount: mountinfo.Mount | None = None
    unread: tuple[files.File, ...] = ()

    @classmethod
    def of(cls, root: str = "/") -> Machine:
        """The machine whose root is the directory *root*; ``/`` is this one, except in a chroot: a
        system that is being installed or built does not have its own kernel running.

        Raises ``Misconfigured`` if *root* is not a directory.
        """
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise Misconfigured(
                f"{root} is not a directory", "name the root directory of a machine with --root"
            )
        live = root == "/" and is_booted()
        unread: list[files.File] = []
        identity = (files.read_text(root, "/etc/machine-id", unread) or "").strip()
        name = _static_host_name(root, unread)
        live_name = os.uname().nodename
        if live and "?" in name and fnmatch.fnmatchcase(live_name, name):
            # systemd 258 appends digits of the machine-id (hostname(5)).
            name = live_name
        return cls(
            root=root,
            host_name=name or (live_name if live else _default_host_name(root)),
            live_name=live_name if live else "",
            machine_id=identity if _MACHINE_ID.fullmatch(identity) else None,
            fstab=tuple(fstab.parse(files.read_text(root, "/etc/fstab", unread) or "")),
            accounts=Accounts.of(root, unread),
            command_lines=_command_lines(root, unread, live=live),
            mounted=frozenset(m.point for m in mountinfo.mounts()) if root == "/" else frozenset(),
            boot_files=_existing(root, *_BOOT_FILES),
            package_databases=_existing(root, *(path[1:] for path in PACKAGE_DATABASES)),
            host_keys=_existing(root, _HOST_KEYS),
            labels=Labels.of(root, unread),
            memory=_memory() if live else 0,
            live=live,
            unread=tuple(unread),
            root_mount=mountinfo.mounted_at(os.path.realpath(root)),
        )

    def as_another(self, host_name: str | None, machine_id: str | None) -> Machine:
        """The machine called *host_name*, or with that id, with the accounts and /etc/fstab of this
        machine. ``None`` twice is this machine.
        """
        mine = (host_name in (None, self.host_name), machine_id in (None, self.machine_id))
        if all(mine):
            return self
        # Name and id of the other machine are independent of each other.
        return replace(
            self,
            host_name=host_name or "",
            live_name="",
            machine_id=machine_id,
            command_lines=(),
            mounted=frozenset(),
            boot_files=(),
            host_keys=(),
            memory=0,
            another=True,
            live=False,
            root_mount=None,
        )

    def show(self, path: str) -> str:
        """A path of the machine as a path on this machine, for messages."""
        return files.show(self.root, path)

    def store_id(self, path: str) -> str | None:
        """The id of the store at *path*, ``None`` if it has no marker yet.

        Raises ``Damaged`` if the marker cannot be read.
        """
        if path in self.store_ids:
            return self.store_ids[path]
        return read_store_id(self.show(path))


def is_booted() -> bool:
    """Whether the root directory of this process is that of the running system.

    Without the privilege to check, or without /proc, it is assumed to be.
    """
    try:
        return os.path.samestat(os.stat("/proc/1/root/."), os.stat("/"))
    except OSError:
        return True


def parse_id(text: str) -> str:
    """A machine id as in machine-id(5), without dashes. Raises ``Misconfigured``."""
    plain = text.replace("-", "").lower()
    if not _MACHINE_ID.fullmatch(plain):
        raise Misconfigured(
            f"{text!r} is not a machine id", "use the 32 hexadecimal digits of /etc/machine-id"
        )
    return plain


def _static_host_name(root: str, unread: list[files.File]) -> str:
    """The configured name of a machine that boots *root* (hostname(5), OpenRC's
    /etc/conf.d/hostname), or empty. ``localhost`` is ignored: the network may set another name.
    """
    for line in (files.read_text(root, "/etc/hostname", unread) or "").splitlines():
        if line.strip() and not line.startswith("#"):
            name = line.strip()
            return "" if name.lower().partition(".")[0] == "localhost" else name
    for line in (files.read_text(root, "/etc/conf.d/hostname", unread) or "").splitlines():
        key, _, value = line.partition("=")
        name = value.strip("\"' ")
        if key.strip() == "hostname" and name and name != "localhost":
            return name
    return ""


def _default_host_name(root: str) -> str:
    """The default name of a machine that boots *root* (os-release(5))."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in (files.read_text(root, path) or "").splitlines():
            key, _, value = line.partition("=")
            if key == "DEFAULT_HOSTNAME" and value.strip("\"' "):
                return value.strip("\"' ")
    return "localhost"


def read_store_id(store: str) -> str | None:
    """The id in the marker of the store at the path *store*; ``None`` if there is no marker.

    Raises ``Damaged`` if the marker cannot be read.
    """
    path = f"{store.rstrip('/')}/{MARKER}"
    try:
        content = documents.parse(documents.read(path, 4096))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"cannot read the marker {path}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"the marker {path} is damaged: {error}") from None
    identity = content.get("id") if isinstance(content, dict) else None
    if not isinstance(identity, str) or not identity:
        raise Damaged(f"the marker {path} is damaged: it has no id")
    return identity


def command_line(text: str) -> CommandLine:
    """A kernel command line, parsed as by the boot code."""
    return CommandLine(text)


def _command_lines(
    root: str, unread: list[files.File], *, live: bool
) -> tuple[tuple[str, str], ...]:
    """The running kernel's command line, if this is that machine, and kernel-install(8)'s."""
    named = ["/proc/cmdline"] if live else []
    named.append("/etc/kernel/cmdline")
    texts = [(files.show(root, path), files.read_text(root, path, unread)) for path in named]
    return tuple((path, text) for path, text in texts if text is not None)


def _memory() -> int:
    """The bytes that a tmpfs could use without swap."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _existing(root: str, *patterns: str) -> tuple[str, ...]:
    """The existing paths of *patterns* (relative to *root*), as paths of the machine."""
    found = {path for pattern in patterns for path in glob.glob(pattern, root_dir=root)}
    return tuple(f"/{path}" for path in sorted(found))
