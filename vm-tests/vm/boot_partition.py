"""A machine that has its kernels on a partition of its own, and another kernel for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vm import layer, packages
from vm.cache import Cache
from vm.layer import Content
from vm.system import System
from vm.tools import Tools

# Of the kernel: what this machine's image needs, and one that no image has.
ODD_MODULE = "dummy"
DRIVERS = (
    "kernel/arch/", "kernel/crypto/", "kernel/lib/", "kernel/fs/btrfs/", "kernel/fs/ext4/",
    "kernel/fs/jbd2/", "kernel/fs/mbcache", "kernel/fs/overlayfs/", "kernel/fs/autofs/",
    "kernel/drivers/virtio/", "kernel/drivers/block/virtio", "kernel/drivers/block/loop",
    "kernel/drivers/char/virtio_console", "kernel/drivers/char/hw_random/virtio",
    f"kernel/drivers/net/{ODD_MODULE}.",
)  # fmt: skip

FSTAB = "/dev/vda / btrfs subvol=root 0 0\n/dev/vdb /boot ext4 defaults 0 0\n"
DRACUT = (
    'hostonly="yes"\nhostonly_cmdline="no"\ni18n_vars=""\nearly_microcode="no"\n'
    'filesystems+=" btrfs "\nadd_drivers+=" virtio_blk btrfs "\n'
    'add_dracutmodules+=" btrfs vm-harness "\ncompress="cat"\n'
)


@dataclass(frozen=True)
class BootDisk:
    """An ext4 for /boot, with the kernel and the image that the machine has so far."""

    files: Mapping[str, Content] = field(default_factory=dict)
    size: str = "512M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        with cache.scratch("boot") as scratch:
            for name, content in self.files.items():
                layer.write(scratch, name, content)
            tools.run("mkfs.ext4", "-q", "-d", scratch, image)


def kernel_package(cache: Cache, system: System) -> Path:
    """A kernel that is not the system's: the smallest of Debian 13 and its backports."""
    found = [
        package
        for suite in ("trixie", "trixie-backports")
        for package in packages.index(suite)
        if package.name.startswith("linux-image-")
        and package.name.endswith("-cloud-amd64")
        and package.name[12].isdigit()
        and package.name != f"linux-image-{system.release}"
        and package.size > 1 << 20  # those without content only depend on another
    ]
    deb = packages.download(cache, min(found, key=lambda package: package.size))

    def wanted(name: str) -> bool:
        return "/kernel/" not in name or any(driver in name for driver in DRIVERS)

    return packages.repacked(cache, deb, wanted, DRIVERS)
