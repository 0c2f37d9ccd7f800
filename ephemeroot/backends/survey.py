"""A machine before its conversion: its root, its volumes, its boot loader."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

from ephemeroot.config import Machine, volumes
from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.contract import Generator
from ephemeroot.linux import disks, paths
from ephemeroot.machine import fstab, loader_interface
from ephemeroot.machine.facts import command_line
from ephemeroot.machine.fstab import FstabLine
from ephemeroot.machine.root import fstab_lines


@dataclass(frozen=True, slots=True)
class Survey:
    """One machine. ``type``, ``device`` and ``inner`` are of the root's filesystem: ``inner``
    is the subvolume or dataset that is mounted, empty for the top level. ``named`` is
    whether the boot asks for it by that name. ``uuid`` is the filesystem's, empty if
    unknown. ``generator`` is ``None`` if the stages cannot run in an initramfs of this machine;
    ``unsupported`` names the generator in that case, if it is known.
    """

    machine: Machine
    type: str
    device: str
    inner: str
    named: bool
    generator: Generator | None
    unsupported: str
    has_module: bool
    boot_loader: str

    @property
    def has_entries(self) -> bool:
        """Whether the boot loader reads entries of the boot loader specification (type 1)."""
        return self.has("boot/loader/entries/*.conf") or self.has("boot/loader/entries/*/*.conf")

    @property
    def grubby(self) -> bool:
        """Whether the program is installed that edits such entries, as on Fedora."""
        return self.has("usr/sbin/grubby") or self.has("usr/bin/grubby")

    @property
    def is_efi(self) -> bool:
        """Whether this machine runs, and its firmware is an EFI."""
        return self.machine.live and os.path.isdir("/sys/firmware/efi")

    @property
    def esp(self) -> str:
        """Where fstab mounts the EFI system partition; empty if it does not."""
        types = {line.mount_point: line.type for line in self.lines}
        known = [point for point in ("/boot/efi", "/efi") if point in types]
        return next(iter(known), "/boot" if types.get("/boot") == "vfat" else "")

    @property
    def boot_disks(self) -> list[str]:
        """The disks that the root is on, as far as this machine has them."""
        if not self.machine.live or self.machine.root_mount is None:
            return []
        return disks.below(self.machine.root_mount.source)

    @property
    def root_is_found_by_others(self) -> bool:
        """Whether no ``root=`` names the root's device: systemd finds the partition."""
        lines = [command_line(text) for _, text in self.machine.command_lines]
        return bool(lines) and all(line.root_device() is None for line in lines)

    @property
    def lines(self) -> list[FstabLine]:
        """The lines of fstab for volumes other than the root."""
        return [line for line in self.machine.fstab if line.mount_point != "/"]

    @property
    def root_line(self) -> FstabLine | None:
        """The root's line in fstab."""
        return next(iter(fstab_lines(self.machine)), None)

    def is_on_volume(self, path: str) -> bool:
        """Whether *path* is on a volume of its own, and so persists anyway."""
        return fstab.keeper(self.lines, path) is not None

    def has(self, pattern: str) -> bool:
        """Whether the machine has something at *pattern* (relative to its root)."""
        return bool(glob.glob(pattern, root_dir=self.machine.root))


def of(root: str) -> Survey:
    """Look at the machine whose root is the directory *root*; changes nothing.

    Raises ``EphemerootError`` if its root cannot be determined.
    """
    machine = Machine.of(root)
    _require_no_deployment(machine)
    line = next(iter(fstab_lines(machine)), None)
    mount = machine.root_mount
    if mount is not None:
        type_, inner = mount.fstype, mount.root.strip("/") if mount.fstype == "btrfs" else ""
        source = mount.source
    elif line is not None:
        type_, inner = line.type, (line.option("subvol") or "").strip("/")
        source = line.device
    else:
        raise EphemerootError(
            f"cannot tell the filesystem of {machine.root}: it is not a mount point, and its fstab "
            "has no line for /",
            "mount the root of that machine there",
        )
    generator = installed.on(machine.root)
    return Survey(
        machine=machine,
        type=type_,
        device=source if type_ == "zfs" else _device(machine, line, source),
        inner=source if type_ == "zfs" else inner,
        named=_is_named(machine, line, inner),
        generator=generator,
        unsupported="" if generator else installed.unsupported(machine.root),
        has_module=generator is not None and generator.has_module(machine.root),
        boot_loader=_boot_loader(machine),
    )


def _require_no_deployment(machine: Machine) -> None:
    """Raise ``Refused`` for a root that an image-based system (ostree) manages: it is a directory
    among others, which its own programs replace.
    """
    booted = any(command_line(text).has("ostree") for _, text in machine.command_lines)
    if booted or _any(machine.root, ("run/ostree-booted", "sysroot/ostree/repo", "ostree/deploy")):
        raise Refused(
            "the root is an ostree deployment: ostree creates and replaces roots itself",
            "only a system whose root is a filesystem or subvolume of its own can be converted",
        )


def _any(root: str, names: tuple[str, ...]) -> bool:
    return any(os.path.lexists(os.path.join(root, name)) for name in names)


def _device(machine: Machine, line: FstabLine | None, source: str) -> str:
    """How the root's device is best called: as fstab or the kernel command line does if that
    is the same one, else by its UUID, else by its path.
    """
    specs = [line.device] if line is not None else []
    specs += [
        device
        for _, text in machine.command_lines
        if (device := command_line(text).root_device()) is not None
    ]
    for spec in specs:
        if spec.startswith(("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=")):
            if volumes.same_device(spec, source) or machine.root != "/":
                return spec
    return _by_uuid(source) or next(iter(specs), source)


def _by_uuid(source: str) -> str:
    folder = "/dev/disk/by-uuid"
    try:
        for name in paths.names(folder):
            if os.path.realpath(f"{folder}/{name}") == os.path.realpath(source):
                return f"UUID={name}"
    except OSError:
        pass
    return ""


def _is_named(machine: Machine, line: FstabLine | None, inner: str) -> bool:
    """Whether the boot parameters have subvol= (as required by ``check``)."""
    if machine.command_lines:
        return all(
            (fstab.option(command_line(text).root_flags(), "subvol") or "").strip("/") == inner
            for _, text in machine.command_lines
        )
    return line is not None and (line.option("subvol") or "").strip("/") == inner


def _boot_loader(machine: Machine) -> str:
    root = machine.root
    grub = ("etc/default/grub", "boot/grub/grub.cfg", "boot/grub2/grub.cfg")
    if _any(root, grub) and not (machine.live and loader_interface.is_systemd_boot()):
        return "grub"
    if _any(root, ("etc/kernel/cmdline",)):
        return "kernel-install"
    entries = ("boot/loader/entries", "efi/loader/entries", "boot/efi/loader/entries")
    return "systemd-boot" if _any(root, entries) else ""
