"""Debian on a partitioned disk with a boot loader, as an installer leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from vm import disk as disks
from vm import layer, packages
from vm.bench import Bench, Boot
from vm.cache import Cache, build_of, digest
from vm.command import run
from vm.disk import Disk
from vm.image import PACKAGES, debian_system
from vm.installed import Installed, installed
from vm.layer import Content, File
from vm.loop import attached, mount
from vm.qemu import LEAN, QUIET, UNATTENDED, WITHOUT_SESSIONS
from vm.system import System
from vm.tools import Tools

UUID = "5c1e7d3a-2b4f-4e6d-8a9c-0d1e2f3a4b5c"
ESP_UUID = "C0DE-4321"
MACHINE_ID = "7a3c5b1d9e2f4a6b8c0d2e4f6a8b0c1d"

KERNEL = " ".join(("console=ttyS0", *QUIET, *LEAN, *UNATTENDED, *WITHOUT_SESSIONS))
"""The harness's words for the kernel command line, set by the administrator."""

_GRUB = f"""\
GRUB_DEFAULT=saved
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="{KERNEL}"
GRUB_TERMINAL=console
"""

_DRACUT = """\
hostonly="yes"
hostonly_cmdline="no"
i18n_install_all="no"
early_microcode="no"
compress="cat"
filesystems+=" {filesystem} "
add_drivers+=" virtio_blk {filesystem} overlay "
add_dracutmodules+=" vm-harness "
"""


# The installer installs one of the boot loaders; the tree has the files of all.
_PACKAGES = replace(
    PACKAGES,
    packages=(
        *PACKAGES.packages,
        *("grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed", "grub-pc-bin"),
        *("systemd-boot", "systemd-boot-efi", "efibootmgr"),
        *("dosfstools", "e2fsprogs", "mount"),
    ),
)


@dataclass(frozen=True)
class Loader:
    """A boot loader: the partition table for it, the mount point of the ESP (empty if there is
    none), and the installer's commands, with the placeholders {disk}, {release} and {line}.

    `choose` has the next boot, and no other, start the kernel {release}; `chosen` runs in it.
    """

    table: str
    esp: str
    install: tuple[str, ...]
    choose: str
    chosen: str = "true"


_GRUB_CHOOSE = f"grub-reboot 'gnulinux-advanced-{UUID}>gnulinux-{{release}}-advanced-{UUID}'"
# GRUB itself cannot write to btrfs (its manual, "Environment block").
_GRUB_CHOSEN = "grub-editenv /boot/grub/grubenv unset next_entry"

GRUB_EFI = Loader(
    "label: gpt\nsize=64M, type=U\ntype=L\n",
    "/boot/efi",
    # The firmware has no variables yet: it uses the path for removable media.
    ("grub-install --target=x86_64-efi --no-nvram --force-extra-removable", "update-grub"),
    _GRUB_CHOOSE,
    _GRUB_CHOSEN,
)
GRUB_PC = Loader(
    "label: dos\ntype=L, bootable\n",
    "",
    ("grub-install --target=i386-pc {disk}", "update-grub"),
    _GRUB_CHOOSE,
    _GRUB_CHOSEN,
)
SYSTEMD_BOOT = Loader(
    "label: gpt\nsize=400M, type=U\ntype=L\n",
    "/efi",
    (
        "mkdir -p /etc/kernel && echo '{line}' > /etc/kernel/cmdline",
        "bootctl --no-variables --esp-path=/efi install",
        "kernel-install add {release} /boot/vmlinuz-{release} /boot/initrd.img-{release}",
    ),
    f"bootctl set-oneshot {MACHINE_ID}-{{release}}.conf",
)


@dataclass(frozen=True)
class Installation:
    """The system on one `filesystem` (btrfs or ext4) that fills the last partition of a disk, and
    the boot loader for it.
    """

    loader: Loader
    filesystem: str = "btrfs"
    size: str = "3G"

    @property
    def flags(self) -> tuple[str, ...]:
        """For the kernel command line."""
        return (f"rootflags=subvol={self.subvolume}",) if self.subvolume else ()

    @property
    def top_options(self) -> str:
        """The mount options of the whole filesystem."""
        return "subvolid=5" if self.subvolume else "rw"

    def start(self, tools: Tools, disk: Disk) -> int:
        """The start of the filesystem on the disk, in bytes."""
        words = tools.run("partx", "--show", "--noheadings", "--output", "START", disk.image)
        return int(words.split()[-1]) * 512

    @property
    def subvolume(self) -> str:
        """The root's subvolume, empty for a filesystem without subvolumes."""
        return "@rootfs" if self.filesystem == "btrfs" else ""

    @property
    def partitions(self) -> Mapping[str, int]:
        """Numbers by UUID."""
        return {ESP_UUID: 1, UUID: 2} if self.loader.esp else {UUID: 1}

    @property
    def command_line(self) -> str:
        """The command line of the installed system."""
        return " ".join((f"root=UUID={UUID}", "ro", *self.flags, KERNEL))

    def files(self) -> dict[str, Content]:
        """The files that the installer writes."""
        options = f"subvol={self.subvolume}" if self.subvolume else "errors=remount-ro"
        fstab = f"UUID={UUID} / {self.filesystem} {options} 0 0\n"
        if self.loader.esp:
            fstab += f"UUID={ESP_UUID} {self.loader.esp} vfat umask=0077 0 1\n"
        found: dict[str, Content] = {
            "etc/fstab": fstab,
            "etc/machine-id": f"{MACHINE_ID}\n",
            "etc/dracut.conf.d/machine.conf": _DRACUT.format(filesystem=self.filesystem),
        }
        if self.loader is not SYSTEMD_BOOT:
            found["etc/default/grub"] = _GRUB
        return found

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        tools.run("sh", "-ec", 'printf "$1" | sfdisk --quiet "$0"', image, self.loader.table)
        with attached(image, partitions=True) as disk:
            if self.loader.esp:
                words = ("-F", "32", "-i", ESP_UUID.replace("-", ""))
                tools.run("mkfs.vfat", *words, f"{disk}p{self.partitions[ESP_UUID]}")
            device = Path(f"{disk}p{self.partitions[UUID]}")
            if self.filesystem == "btrfs":
                tools.run("mkfs.btrfs", "--quiet", "--uuid", UUID, device)
            else:
                tools.run("mkfs.ext4", "-q", "-F", "-U", UUID, device)
            with cache.scratch("installer") as top:
                mount(device, top, self.filesystem, "")
                try:
                    self._copy(cache, tools, system, top)
                finally:
                    run(["umount", top])
        with self.installed(cache, Disk(image), system.release) as machine:
            machine.run(f"dracut --force /boot/initrd.img-{system.release} {system.release}")
            # Until the first boot, this host's kernel runs the system.
            machine.run(
                "mkdir /usr/lib/modules/$(uname -r) && printf 'kernel/fs/%s.ko\\n' btrfs/btrfs "
                "ext4/ext4 overlayfs/overlay > /usr/lib/modules/$(uname -r)/modules.builtin"
            )
            if not self.loader.esp:
                disk_name = machine.run("findmnt -nvo SOURCE /").strip().rpartition("p")[0]
                for command in self.commands(system, disk_name):
                    machine.run(command)

    def commands(self, system: System, disk: str) -> list[str]:
        """The installer's commands for the boot loader on that disk."""
        return [
            one.format(disk=disk, release=system.release, line=self.command_line)
            for one in self.loader.install
        ]

    def _copy(self, cache: Cache, tools: Tools, system: System, top: Path) -> None:
        root = top / self.subvolume
        if self.subvolume:
            tools.run("btrfs", "subvolume", "create", root)
        system.copy_to(cache, root)
        for name, content in self.files().items():
            layer.write(root, name, content)

    def installed(
        self, cache: Cache, disk: Disk, release: str
    ) -> AbstractContextManager[Installed]:
        """The installation, run on this host as if it had booted that kernel (see `vm.installed`);
        without its ESP, because this host's kernel may not support vfat.
        """
        image = f"BOOT_IMAGE=/{self.subvolume}/boot/vmlinuz-{release}".replace("//", "/")
        line = f"{image} {self.command_line}"
        return installed(cache, disk, self.subvolume, UUID, line, self.filesystem, self.partitions)


def disk(bench: Bench, kind: Installation, system: System) -> Disk:
    """The installed machine's disk, from the cache. Do not use it directly: `copy` it."""
    plain = disks.prepared(bench.cache, kind, bench.tools, system)
    if not kind.loader.esp:
        return plain

    def build(folder: Path) -> None:
        made = plain.copy(folder / "disk.raw")
        initrd = folder / "initrd"
        with made.mounted(kind.filesystem, kind.top_options, kind.start(bench.tools, made)) as top:
            name = f"boot/initrd.img-{system.release}"
            shutil.copy(top / kind.subvolume / name, initrd)
        # By the installer's own kernel, which no firmware has started.
        root = ("root=/dev/vda2", *kind.flags, "rw")
        machine = bench.up(Boot(system, initrd, (made,), root=root, timeout=900), "installer")
        machine.run(f"mkdir -p {kind.loader.esp} && mount {kind.loader.esp}")
        for command in kind.commands(system, "/dev/vda"):
            print(machine.run(command, timeout=900).out)
        machine.poweroff(900)
        initrd.unlink()

    key = digest(Path(__file__), repr(kind), build_of(plain.image.parent), system.key)
    return Disk(bench.cache.entry("disk", key, build, keep=32) / "disk.raw")


def debian_with_boot_loaders(cache: Cache) -> System:
    """Debian with the packages of the boot loaders, and the kernel as in its package."""
    return with_kernel(cache, debian_system(cache, _PACKAGES))


def with_kernel(cache: Cache, system: System) -> System:
    """The *system* with the files of its kernel's package in /boot."""
    name = f"linux-image-{system.release}"
    (package,) = [p for p in packages.index("trixie") if p.name == name]
    deb = packages.download(cache, package)
    with cache.scratch("kernel") as scratch:
        run(["dpkg-deb", "--extract", deb, scratch])
        files = {
            f"boot/{path.name}": File(path.read_bytes())
            for path in (scratch / "boot").iterdir()
            if not path.name.startswith("System.map")
        }
    return system.on_top(layer.make(cache, files=files))
