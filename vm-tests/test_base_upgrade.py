"""Packages and a kernel upgraded by `base run`, in four boots of one machine.

The first run is cut off when the new kernel's image exists but the upgrade is not complete; the
second boot uses that kernel, and finds everything restored; the third boots the upgraded system;
the fourth boots it after a rollback. All packages are Debian's own; the kernel has fewer drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm import ephemeral as machines
from vm import packages
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
from vm.machine import Machine
from vm.system import System

DiskFactory = Callable[..., Disk]

GREETER = "hello"  # in Debian 12 and, newer, in Debian 13
UPGRADE = "apt-get -q update && apt-get -q -y upgrade && apt-get -q -y install"


def greeter(cache: Cache, suite: str) -> Path:
    (found,) = [p for p in packages.index(suite) if p.name == GREETER]
    return packages.download(cache, found)


class Story:
    """The machine and the means to boot it."""

    def __init__(self, bench: Bench, boot: Boot, name: str, release: str) -> None:
        self.bench = bench
        self.boot = boot
        self.name = name
        self.release = release

    def up(self, boot: Boot | None = None) -> Machine:
        machine = self.bench.up(boot or self.boot, self.name)
        assert machine.settle() == "running", machine.failed_units()
        return machine

    def with_its_kernel(self, scratch: Path) -> Boot:
        """Boot with the new kernel and its image from /boot, as a boot loader would."""
        kernel = f"vmlinuz-{self.release}"
        return booted_from(self.boot, self.boot.disks[1], kernel, self.release, scratch)


def version(machine: Machine) -> str:
    return machine.run(f"dpkg-query -W -f '${{Version}}' {GREETER}").out


def require_fresh(machine: Machine, release: str) -> None:
    """Require a fresh root, this kernel, and its modules, one of which only the root has."""
    assert machine.run("uname -r").out.strip() == release
    machine.run(f"modprobe {ODD_MODULE}")
    machine.run("test ! -e /etc/of-the-boot-before")
    machine.run("grep -q '\"retired\"' /run/ephemeroot/wiped")
    machine.write("/etc/of-the-boot-before", "")


@dataclass(frozen=True)
class Upgrade:
    """The machine before the upgrade, and the new kernel, its release and its package."""

    system: System
    initrd: Path
    root: Btrfs
    boot: BootDisk
    kernel: str
    release: str
    older: str
    newer: str


@pytest.fixture(scope="module")
def upgrade(cache: Cache, image: System, package: Path) -> Upgrade:
    kernel = kernel_package(cache, image)
    newer, older = greeter(cache, "trixie"), greeter(cache, "bookworm")
    wanted = kernel.name.partition("_")[0]
    debs = {"srv/older.deb": File(older.read_bytes())}
    system = with_repository(cache, image, debs).changed_by(cache, "dpkg", "-i", "/srv/older.deb")
    made = machines.make(cache, system, package)
    initrd = made.initrd(cache)
    present = {
        f"vmlinuz-{image.release}": File(image.kernel.read_bytes()),
        f"initrd.img-{image.release}": File(initrd.read_bytes()),
    }
    return Upgrade(
        made.system, initrd, layout(made, [kernel, newer]), BootDisk(present), wanted,
        wanted.removeprefix("linux-image-"), older.name.replace("%3a", ":"), newer.name,
    )  # fmt: skip


def test_an_upgrade_without_a_boot(upgrade: Upgrade, cache: Cache, disk: DiskFactory) -> None:
    """The same upgrade on this host: its failures are found before a machine is made.

    Without a boot: apt, dpkg and dracut are those of the Debian system, in a chroot.
    """
    roots, boots = disk(upgrade.root, upgrade.system), disk(upgrade.boot, upgrade.system)
    line = f"root=UUID={machines.UUID} rootflags=subvol=root ro"
    with (
        installed(cache, roots, "root", machines.UUID, line) as machine,
        boots.mounted("ext4", "rw") as boot,
    ):
        run(["mount", "--bind", boot, machine.root / "boot"])
        machine.run(
            "mkdir -p /persistent; "
            f"mount -t btrfs -o subvol=persistent UUID={machines.UUID} /persistent"
        )
        print(machine.run(f"ephemeroot base run -- sh -ec '{UPGRADE} {upgrade.kernel}'"))
        listed = machine.run("ephemeroot base list").splitlines()
        assert len(listed) == 2
        assert upgrade.release in listed[0]
        assert upgrade.release not in listed[1]
        assert (boot / f"initrd.img-{upgrade.release}").stat().st_size > 1 << 20


def test_an_upgrade_that_is_cut_off_completed_and_rolled_back(
    upgrade: Upgrade, bench: Bench, image: System, disk: DiskFactory, name: str, scratch: Path
) -> None:
    """Only a boot shows that the upgraded kernel and image start, and what a power cut during apt
    leaves.
    """
    wanted, release = upgrade.kernel, upgrade.release
    disks = (disk(upgrade.root, upgrade.system), disk(upgrade.boot, upgrade.system))
    boot = Boot(upgrade.system, upgrade.initrd, disks, root=ROOT)
    story = Story(bench, boot, name, release)

    machine = story.up()
    require_fresh(machine, image.release)
    before = version(machine)
    assert before in upgrade.older
    # Cut off when only the last step of the upgrade is left.
    machine.run(
        f"setsid ephemeroot base run -- sh -ec '{UPGRADE} {wanted}; touch /run/upgraded; "
        "sleep 900' > /run/upgrade.log 2>&1 & echo $! > /run/pid"
    )
    machine.run(
        "while ! test -e /run/upgraded; do "
        "kill -0 $(cat /run/pid) || { cat /run/upgrade.log; exit 1; }; sleep 1; done; sync",
        timeout=600,
    )
    assert version(machine) == before
    machine.cut()

    machine = story.up(story.with_its_kernel(scratch))
    require_fresh(machine, release)
    assert version(machine) == before
    machine.run("systemctl start ephemeroot-boot-complete.service")
    assert "restore" in machine.journal("-u ephemeroot-boot-complete.service")
    names = machine.run("ls /boot").out.split()
    assert f"vmlinuz-{release}" not in names
    assert f"initrd.img-{image.release}" in names
    machine.run(f"ephemeroot base run -- sh -ec '{UPGRADE} {wanted}'", timeout=600)
    assert version(machine) == before
    listed = machine.run("ephemeroot base list").out.splitlines()
    assert len(listed) == 2
    assert f"{image.release}, {release}" in listed[0] or f"{release}, {image.release}" in listed[0]
    assert release not in listed[1]
    assert machine.poweroff().complaints == ()

    machine = story.up(story.with_its_kernel(scratch))
    require_fresh(machine, release)
    after = version(machine)
    assert after != before
    assert after in upgrade.newer
    machine.run("dpkg --audit && dpkg --verify hello")
    machine.run("ephemeroot base rollback --yes")
    assert machine.poweroff().complaints == ()

    machine = story.up(story.with_its_kernel(scratch))
    require_fresh(machine, release)
    assert version(machine) == before
    assert machine.poweroff().complaints == ()
