"""A machine that has its kernels on a separate partition, and another kernel for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vm import ephemeral, layer, packages
from vm.bench import Boot
from vm.cache import Cache
from vm.disk import Btrfs, Disk, Subvolume
from vm.ephemeral import Ephemeral
from vm.layer import Content, File
from vm.system import System
from vm.tools import Tools

# The drivers of the kernel: those that this machine's image needs, and one that no image has.
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
    """An ext4 for /boot, with the present kernel and image of the machine."""

    files: Mapping[str, Content] = field(default_factory=dict)
    size: str = "512M"

    def fill(self, image: Path, cache: Cache, tools: Tools, system: System) -> None:
        """See Layout."""
        with cache.scratch("boot") as scratch:
            for name, content in self.files.items():
                layer.write(scratch, name, content)
            tools.run("mkfs.ext4", "-q", "-d", scratch, image)


def kernel_package(
    cache: Cache, system: System, drivers: Sequence[str] = DRIVERS, *, newer: bool = False
) -> Path:
    """A kernel other than the system's, with those drivers: the smallest of Debian 13 and its
    backports that is one package. One that is `newer` is the first in a boot loader's menu.
    """
    found = [
        package
        for suite in ("trixie", "trixie-backports")
        for package in packages.index(suite)
        if package.name.startswith("linux-image-")
        and package.name.endswith("-cloud-amd64")
        and package.name[12].isdigit()
        and package.name != f"linux-image-{system.release}"
        and package.size > 1 << 20  # those without content only depend on another one
        and "linux-base-" not in package.depends
        and not (newer and _version(package.name[12:]) < _version(system.release))
    ]
    deb = packages.download(cache, min(found, key=lambda package: package.size))

    def wanted(name: str) -> bool:
        return "/kernel/" not in name or any(driver in name for driver in drivers)

    return packages.repacked(cache, deb, wanted, drivers)


def _version(release: str) -> list[int]:
    return [int(number) for number in release.partition("+")[0].split(".")]


def with_repository(cache: Cache, image: System, files: Mapping[str, Content]) -> System:
    """The *image* with its kernels on a partition, with a package repository in its store and with
    those *files*.
    """
    common: dict[str, Content] = {
        "etc/fstab": FSTAB,
        "etc/dracut.conf.d/vm.conf": DRACUT,
        "etc/apt/sources.list": "deb [trusted=yes] file:/persistent/repository ./\n",
    }
    return image.on_top(layer.make(cache, files={**common, **files}))


def layout(made: Ephemeral, debs: Sequence[Path]) -> Btrfs:
    """The disk of that machine; the repository has *debs*."""
    files = {f"repository/{name}": File(data) for name, data in packages.repository(debs).items()}
    return Btrfs(
        subvolumes=(
            Subvolume("root-base", tree=True, files={"etc/fstab": FSTAB}),
            Subvolume("root", snapshot_of="root-base"),
            Subvolume("persistent", files={**made.store, **files}),
        ),
        uuid=ephemeral.UUID,
    )


def booted_from(boot: Boot, partition: Disk, kernel: str, release: str, scratch: Path) -> Boot:
    """*boot* with the file *kernel* of the partition and the image of that *release*, as a boot
    loader would start it.
    """
    with partition.mounted("ext4", "ro") as top:
        linux, initrd = scratch / "vmlinuz", scratch / "initrd"
        linux.write_bytes((top / kernel).read_bytes())
        initrd.write_bytes((top / f"initrd.img-{release}").read_bytes())
    return replace(boot, system=replace(boot.system, kernel=linux, release=release), initrd=initrd)
