"""Kernels whose names do not contain their release, through `base run` with a kernel upgrade.

The packages are Debian's own; a script of the administrator renames each installed kernel, to the
path of the Boot Loader Specification, and to plain `vmlinuz`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm import ephemeral as machines
from vm.bench import ROOT, Bench, Boot
from vm.boot_partition import (
    ODD_MODULE,
    BootDisk,
    booted_from,
    kernel_package,
    layout,
    with_repository,
)
from vm.cache import Cache
from vm.command import run
from vm.disk import Btrfs, Disk
from vm.installed import installed
from vm.layer import File
from vm.system import System

DiskFactory = Callable[..., Disk]

TOKEN = "a1b2c3d4"
RENAME = f"""\
#!/bin/sh
set -e
mkdir -p /boot/{TOKEN}/$1
cp /boot/vmlinuz-$1 /boot/{TOKEN}/$1/linux
mv /boot/vmlinuz-$1 /boot/vmlinuz
"""
UPGRADE = "apt-get -q update && apt-get -q -y install"


@dataclass(frozen=True)
class Upgrade:
    """The machine before the upgrade, and the release and the package of the new kernel."""

    system: System
    initrd: Path
    root: Btrfs
    boot: BootDisk
    kernel: str
    release: str


@pytest.fixture(scope="module")
def upgrade(cache: Cache, image: System, package: Path) -> Upgrade:
    kernel = kernel_package(cache, image)
    wanted = kernel.name.partition("_")[0]
    script = {"etc/kernel/postinst.d/zz-rename": File(RENAME.encode(), 0o755)}
    made = machines.make(cache, with_repository(cache, image, script), package)
    initrd = made.initrd(cache)
    present = {
        f"{TOKEN}/{image.release}/linux": File(image.kernel.read_bytes()),
        f"initrd.img-{image.release}": File(initrd.read_bytes()),
    }
    release = wanted.removeprefix("linux-image-")
    root = layout(made, [kernel])
    return Upgrade(made.system, initrd, root, BootDisk(present), wanted, release)


def without_modules(release: str) -> str:
    return f"ephemeroot base run -- rm -r /usr/lib/modules/{release} 2>&1"


def test_upgrades_a_kernel_that_is_renamed(
    upgrade: Upgrade, cache: Cache, disk: DiskFactory
) -> None:
    """Without a boot: apt, dpkg and dracut are those of the Debian system, in a chroot."""
    roots, boots = disk(upgrade.root, upgrade.system), disk(upgrade.boot, upgrade.system)
    line = f"root=UUID={machines.UUID} rootflags=subvol=root ro"
    with (
        installed(cache, roots, "root", machines.UUID, line) as machine,
        boots.mounted("ext4", "rw") as boot,
    ):
        mount = f"mount -t btrfs -o subvol=persistent UUID={machines.UUID} /persistent"
        machine.run(f"mkdir -p /persistent; {mount}")
        refused = machine.run("! ephemeroot base run -- true")
        assert "/boot is not mounted, but /etc/fstab has a filesystem for it" in refused
        run(["mount", "--bind", boot, machine.root / "boot"])
        print(machine.run(f"ephemeroot base run -- sh -ec '{UPGRADE} {upgrade.kernel}'"))
        listed = machine.run("ephemeroot base list").splitlines()
        assert upgrade.release in listed[0]
        assert (boot / "vmlinuz").stat().st_size > 1 << 20
        said = machine.run(f"! {without_modules(upgrade.release)}")
        assert f"would find no modules in the new base: it is the kernel {upgrade.release}" in said


@pytest.mark.proof
def test_a_renamed_kernel_boots_with_its_modules(
    upgrade: Upgrade, bench: Bench, image: System, disk: DiskFactory, name: str, scratch: Path
) -> None:
    """Only a boot shows that the kernel whose modules were protected starts and finds them."""
    disks = (disk(upgrade.root, upgrade.system), disk(upgrade.boot, upgrade.system))
    boot = Boot(upgrade.system, upgrade.initrd, disks, root=ROOT)
    machine = bench.up(boot, name)
    assert machine.settle() == "running", machine.failed_units()
    machine.run(f"ephemeroot base run -- sh -ec '{UPGRADE} {upgrade.kernel}'", timeout=900)
    linux = f"/boot/{TOKEN}/{upgrade.release}/linux"
    for release, path in {image.release: f"/boot/{TOKEN}/{image.release}/linux",
                          upgrade.release: linux}.items():  # fmt: skip
        done = machine.run(without_modules(release), timeout=300, check=False)
        assert done.rc != 0
        assert f"{path} would find no modules in the new base: it is the kernel {release}" in (
            done.out
        )
    # The plain name alone is enough, too.
    script = f"rm -r /boot/{TOKEN}/{upgrade.release} /usr/lib/modules/{upgrade.release}"
    done = machine.run(f"ephemeroot base run -- sh -c '{script}' 2>&1", timeout=300, check=False)
    assert "/boot/vmlinuz would find no modules in the new base" in done.out
    machine.run(f"test -e {linux}")
    assert machine.poweroff().complaints == ()

    kernel = linux.removeprefix("/boot/")
    machine = bench.up(booted_from(boot, disks[1], kernel, upgrade.release, scratch), name)
    assert machine.settle() == "running", machine.failed_units()
    assert machine.run("uname -r").out.strip() == upgrade.release
    machine.run(f"modprobe {ODD_MODULE}")
    machine.run("grep -q '\"retired\"' /run/ephemeroot/wiped")
    assert machine.poweroff().complaints == ()
