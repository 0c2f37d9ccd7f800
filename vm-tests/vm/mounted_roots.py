"""Machines whose root the wiper mounts itself: in memory, and as an overlay on a stock root."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import btrfsutil

from vm.cache import Cache
from vm.command import run
from vm.disk import Btrfs, Disk, Subvolume
from vm.ephemeral import STORE_UUID, UUID, Ephemeral
from vm.filesystems import Ext4Files
from vm.loop import mounted
from vm.lvm import Lvm
from vm.system import System
from vm.tools import Tools

TMPFS = f"""\
[root]
wiper = "tmpfs"
# QEMU has the kernel and the initramfs
external-boot = true

[root.tmpfs]
size = "200M"

[[volumes]]
mount-point = "/usr"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=usr", "ro"]

[[volumes]]
mount-point = "/persistent"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=persistent"]

[persistence."/persistent"]
directories = ["/etc", "/var", "/root", "/home"]
"""

PERSISTENT = ("etc", "var", "root", "home")
TMPFS_ROOT = ("root=tmpfs", "ro")

OVERLAY = f"""\
[root]
wiper = "overlay"
# QEMU has the kernel and the initramfs
external-boot = true

[root.overlay]
volume = "/persistent"

[[volumes]]
mount-point = "/persistent"
device = "UUID={STORE_UUID}"
type = "btrfs"
options = ["subvol=persistent"]
timeout = "20s"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""

OVERLAY_ROOT = ("root=/dev/vda", "rootfstype=ext4", "ro")

# The same on a stock Debian's LVM, all on one disk; the command line is that of its grub-mkconfig.
STOCK = """\
[root]
wiper = "overlay"
external-boot = true

[root.overlay]
volume = "/persistent"

[[volumes]]
mount-point = "/persistent"
device = "/dev/vg0/store"
type = "ext4"
timeout = "20s"

[persistence."/persistent"]
directories = ["/var/log", "/home"]
files = ["/etc/machine-id"]
"""
STOCK_ROOT = ("root=/dev/mapper/vg0-root", "rootfstype=ext4", "ro")
STOCK_WORDS = ("rd.lvm.lv=vg0/root", "rd.lvm.lv=vg0/store")


def stock_disk(ready: Ephemeral) -> Lvm:
    """The installed root and the store as logical volumes."""
    store = Ext4Files("store", ready.store, "480M")
    return Lvm("vg0", (("root", Ext4(root="/dev/mapper/vg0-root")), ("store", store)))


def tmpfs_layout(ready: Ephemeral) -> Btrfs:
    """A disk with the system and the store; `install` prepares it for booting."""
    store = Subvolume("persistent", files=ready.store)
    return Btrfs(subvolumes=(Subvolume("system", tree=True), store), uuid=UUID)


def install(disk: Disk) -> None:
    """The work of an administrator: /usr gets a subvolume, and the store the declared paths."""
    with disk.mounted() as top:
        btrfsutil.create_subvolume(str(top / "usr"))
        copy = ["cp", "--archive", "--reflink=auto"]
        subprocess.run([*copy, f"{top}/system/usr/.", top / "usr"], check=True)
        for name in PERSISTENT:
            subprocess.run([*copy, top / "system" / name, top / "persistent"], check=True)
        btrfsutil.set_subvolume_read_only(str(top / "usr"), True)


@dataclass(frozen=True)
class Ext4:
    """The system on an ext4 over the whole disk, with the line that Debian's installer writes for
    the device `root`."""

    size: str = "1500M"
    root: str = "/dev/vda"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See `vm.disk.Layout`."""
        run(["mkfs.ext4", "-q", "-F", image])
        with mounted(image, "ext4", "rw") as top:
            system.copy_to(cache, top)
            (top / "etc/fstab").write_text(f"{self.root} / ext4 errors=remount-ro 0 1\n")
            (top / "etc/lost").unlink(missing_ok=True)
