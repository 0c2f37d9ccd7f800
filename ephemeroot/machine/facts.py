"""What the configuration is compiled against: the facts of one machine."""

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

    ``root`` is the directory that is its root now. ``host_name`` is the static name, which does
    not change with the network, ``live_name`` the one that the running machine has now.
    ``command_lines`` are kernel command lines by the file they were read from, the one that
    counts most first. ``mounted`` are the mount points in use now, if this is the running
    machine. The lists of paths are as the machine sees them. ``store_ids`` are the ids of
    stores by path; for one that is not in it, ``store_id`` reads the store's marker.
    ``generation`` is the plan's, ``labels`` the SELinux policy's, ``memory`` in bytes; 0 if it
    is not this machine that is looked at. ``another`` is true for a machine of which nothing
    but name and id is known: what boots it, and what its stores are, is not. ``root_mount`` is
    the mount of ``root``, ``live`` whether this is the running machine. ``unread`` are files of the
    machine that exist and could not be read.
    ``system`` is the id under which it owns its old roots, see ``Plan.system``.
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
        """The machine whose root is the directory *root*; ``/`` is this one, unless this is a
        chroot: a system that is being installed or built has another one's kernel.

        Raises ``Misconfigured`` if that is not a directory.
        """
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise Misconfigured(
                f"{root} is not a directory", "--root must be the root directory of a machine"
            )
        live = root == "/" and is_booted()
        unread: list[files.File] = []
        identity = (files.read_text(root, "/etc/machine-id", unread) or "").strip()
        name = _static_host_name(root, unread)
        live_name = os.uname().nodename
        if live and "?" in name and fnmatch.fnmatchcase(live_name, name):
            # systemd 258 puts digits of the machine-id there (hostname(5)).
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
        """The machine called *host_name*, or with that id, as far as it can be known from here:
        accounts and /etc/fstab are taken to be the same. ``None`` twice is this one.
        """
        mine = (host_name in (None, self.host_name), machine_id in (None, self.machine_id))
        if all(mine):
            return self
        # What the other has for an id is not known just because its name is, nor the reverse.
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
        """A path of the machine as a path from here, for messages."""
        return files.show(self.root, path)

    def store_id(self, path: str) -> str | None:
        """The id of the store at *path*, ``None`` if it has no marker yet.

        Raises ``Damaged`` if it has one that cannot be read.
        """
        if path in self.store_ids:
            return self.store_ids[path]
        return read_store_id(self.show(path))


def is_booted() -> bool:
    """Whether the root directory of this process is the one of the running system.

    Without the right to look, or without /proc, it is taken to be.
    """
    try:
        return os.path.samestat(os.stat("/proc/1/root/."), os.stat("/"))
    except OSError:
        return True


def parse_id(text: str) -> str:
    """A machine's id as machine-id(5) has it, dashes left out. Raises ``Misconfigured``."""
    plain = text.replace("-", "").lower()
    if not _MACHINE_ID.fullmatch(plain):
        raise Misconfigured(f"{text!r} is not a machine id", "it has 32 hexadecimal digits")
    return plain


def _static_host_name(root: str, unread: list[files.File]) -> str:
    """The name that the administrator gave to a machine that boots *root* (hostname(5), OpenRC's
    /etc/conf.d/hostname), or nothing. ``localhost`` is none: the network may then name the machine.
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
    """What a machine that boots *root* calls itself if nobody names it (os-release(5))."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in (files.read_text(root, path) or "").splitlines():
            key, _, value = line.partition("=")
            if key == "DEFAULT_HOSTNAME" and value.strip("\"' "):
                return value.strip("\"' ")
    return "localhost"


def read_store_id(store: str) -> str | None:
    """The id in the marker of the store at the path *store*; ``None`` if there is no marker.

    Raises ``Damaged`` if there is one that cannot be read.
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
    """A kernel command line taken apart as the boot code does it."""
    return CommandLine(text)


def _command_lines(
    root: str, unread: list[files.File], *, live: bool
) -> tuple[tuple[str, str], ...]:
    """The running kernel's, if it is this machine's, and what kernel-install(8) will use."""
    named = ["/proc/cmdline"] if live else []
    named.append("/etc/kernel/cmdline")
    texts = [(files.show(root, path), files.read_text(root, path, unread)) for path in named]
    return tuple((path, text) for path, text in texts if text is not None)


def _memory() -> int:
    """What a tmpfs could fill without swap, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _existing(root: str, *patterns: str) -> tuple[str, ...]:
    """Which of *patterns* (relative to *root*) exist, as the machine sees them."""
    found = {path for pattern in patterns for path in glob.glob(pattern, root_dir=root)}
    return tuple(f"/{path}" for path in sorted(found))
