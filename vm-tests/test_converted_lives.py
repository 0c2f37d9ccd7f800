"""Converted machines from the installer's disk to their return, through firmware and boot loader.

The commands are those that `ephemeroot init` prints, then those of the guide: an upgrade with a new
kernel, a boot of an old root, `leave`. Each question is answered with yes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from vm import converted, installer, upgrade
from vm.bench import Bench
from vm.boot_partition import ODD_MODULE
from vm.cache import Cache
from vm.converted import FORGET, FORGOTTEN
from vm.disk import Disk
from vm.firmware import FirmwareBoot
from vm.installer import GRUB_EFI, GRUB_PC, SYSTEMD_BOOT, Installation, Loader
from vm.machine import Machine
from vm.system import System
from vm.upgrade import Upgrade

pytestmark = pytest.mark.proof

LEAVE = "ephemeroot leave --yes; echo kept > /etc/kept"
LONG = 3600.0  # seconds: dracut builds an image in the machine


@dataclass(frozen=True)
class Stock:
    """The system as it is installed, and what an upgrade of it brings."""

    system: System
    upgrade: Upgrade


@pytest.fixture(scope="module")
def stock(cache: Cache, package: Path) -> Stock:
    """With an administrator's own."""
    newer = upgrade.of(cache, installer.debian_with_boot_loaders(cache))
    return Stock(converted.stock(cache, package), newer)


class Life:
    """The machine, which boots from its `disk` by the boot loader of its `kind`. One with UEFI is
    converted already: this host may know no vfat.
    """

    def __init__(
        self, bench: Bench, stock: Stock, kind: Installation, scratch: Path, name: str
    ) -> None:
        self.stock = stock
        self.kind = kind
        variables = None
        if kind.loader.esp:
            folder = converted.in_the_machine(bench, kind, stock.system)
            self.disk = Disk(folder / "disk.raw").copy(scratch / "disk.raw")
            variables = Path(shutil.copy(folder / "variables", scratch))
        else:
            self.disk = installer.disk(bench, kind, stock.system).copy(scratch / "disk.raw")
        stock.upgrade.offer(kind, bench, self.disk)
        self.boot = FirmwareBoot((self.disk,), variables, timeout=1800)
        self._bench = bench
        self._name = name
        self.machine: Machine | None = None

    def up(self) -> Machine:
        """Boot, after an orderly end of the boot before."""
        if self.machine is not None:
            assert self.machine.poweroff(900).complaints == ()
        self.machine = self._bench.up(self.boot, self._name)
        converted.require_running(self.machine)
        return self.machine

    def off(self) -> None:
        """Switch it off in order."""
        assert self.machine is not None
        assert self.machine.poweroff(900).complaints == ()
        self.machine = None

    def type(self, command: str) -> str:
        """Run the command in the machine; what it prints."""
        assert self.machine is not None
        return self.machine.run(command, timeout=LONG).out

    def ask(self, command: str) -> str:
        """As `type`, with what it complains about; the test's output has it."""
        said = self.type(f"({command}) 2>&1")
        print(f"$ {command}\n{said}")
        return said


def oldest(listed: str) -> str:
    """The installed root, of what `roots list --json` prints."""
    (history,) = json.loads(listed)["histories"]
    (name,) = [one["name"] for one in history["entries"] if one["name"].endswith(".keep")]
    return str(name)


def chosen(loader: Loader, release: str) -> str:
    """The command by which the next boot starts the kernel of that release."""
    return loader.choose.format(release=release)


def require_warned(said: str, stock: Stock) -> None:
    """`next-boot root` names the kernel with which the old root cannot boot, and the entry that
    boots it.
    """
    assert f"has no modules for the kernel {stock.upgrade.release}" in said
    assert "in the boot menu" in said
    assert stock.system.release in said.partition("choose the entry of")[2]


def require_old_root(life: Life) -> None:
    """What the installed root had when it was retired, and its kernel."""
    machine = life.machine
    assert machine is not None
    assert machine.run("uname -r").out.strip() == life.stock.system.release
    converted.require_no_problems(machine)
    converted.require_own(machine)
    machine.run(f"ls -d {' '.join(FORGOTTEN)}")
    life.ask(life.kind.loader.chosen)


def require_upgraded(life: Life, kind: str) -> None:
    """A fresh root with the new kernel, which finds its modules."""
    machine = life.machine
    assert machine is not None
    converted.require_ephemeral(machine, kind)
    assert machine.run("uname -r").out.strip() == life.stock.upgrade.release
    machine.run(f"modprobe {ODD_MODULE}")
    machine.run("dpkg --audit; echo mine > /srv/photos/late")


def require_persistent(life: Life, root: str) -> None:
    """An ordinary machine: nothing was wiped, nothing is bound, nothing is missing."""
    machine = life.up()
    assert machine.run("test -e /run/ephemeroot/wiped", check=False).rc == 1
    assert "wipe: wiped" not in machine.journal()
    assert machine.run("findmnt -no FSTYPE /").out.strip() == root
    points = machine.run("findmnt -rno TARGET").out.splitlines()
    assert [
        one for one in points if one.startswith(("/etc", "/home", "/opt", "/srv", "/var"))
    ] == []
    assert machine.run("uname -r").out.strip() == life.stock.upgrade.release
    machine.run(f"modprobe {ODD_MODULE}")
    converted.require_own(machine)
    assert machine.read("/srv/photos/late") == b"mine\n"
    assert machine.read("/etc/kept") == b"kept\n"
    assert machine.run("test -e /.ephemeroot/leaving.json", check=False).rc == 1
    life.off()


@pytest.mark.parametrize("loader", [SYSTEMD_BOOT, GRUB_EFI], ids=["systemd-boot", "uefi-and-grub"])
def test_with_uefi(loader: Loader, stock: Stock, bench: Bench, scratch: Path, name: str) -> None:
    """Only a boot shows that firmware and boot loader start the files of the ESP, or of the /boot
    that has moved; that a new kernel is started from there, and that an old root boots with
    the kernel that it has modules for.
    """
    life = Life(bench, stock, Installation(loader), scratch, name)
    converted.require_ephemeral(life.up(), "btrfs")
    life.ask("ephemeroot upgrade --yes")
    said = life.ask(
        f"ephemeroot next-boot root {oldest(life.type('ephemeroot roots list --json'))}"
    )
    require_warned(said, stock)
    life.ask(chosen(loader, stock.system.release))
    life.up()
    require_old_root(life)
    life.up()
    require_upgraded(life, "btrfs")
    life.ask(LEAVE)
    require_persistent(life, "btrfs")


def test_with_bios(stock: Stock, bench: Bench, cache: Cache, scratch: Path, name: str) -> None:
    """Only a boot shows that GRUB starts the new kernel from the /boot that has moved, and an old
    root with the kernel that it has modules for. The commands run on this host,
    which is ten times as fast.
    """
    kind = Installation(GRUB_PC)
    release = stock.system.release
    life = Life(bench, stock, kind, scratch, name)
    with kind.installed(cache, life.disk, release) as host:
        assert not converted.follow(host.run)
        host.run(FORGET)
    converted.require_ephemeral(life.up(), "btrfs")
    listed = life.type("ephemeroot roots list --json")
    life.off()
    with kind.installed(cache, life.disk, release) as host:
        host.run("mount /boot; mount /persistent")
        print(host.run("ephemeroot upgrade --yes"))
        require_warned(host.run(f"ephemeroot next-boot root {oldest(listed)}"), stock)
        host.run(chosen(GRUB_PC, release))
    life.up()
    require_old_root(life)
    life.up()
    require_upgraded(life, "btrfs")
    life.off()
    with kind.installed(cache, life.disk, stock.upgrade.release) as host:
        host.run("mount /boot; mount /persistent")
        print(host.run(LEAVE))
    require_persistent(life, "btrfs")


def test_ext4_with_an_overlay(
    stock: Stock, bench: Bench, cache: Cache, scratch: Path, name: str
) -> None:
    """Only a boot shows that GRUB starts the files in the /boot of the installed root, below the
    layer, and the kernel that an upgrade of that root installs. The commands of a boot of the
    installed root run on this host, which is ten times as fast.
    """
    kind = Installation(GRUB_PC, "ext4")
    life = Life(bench, stock, kind, scratch, name)
    with kind.installed(cache, life.disk, stock.system.release) as host:
        assert not converted.follow(host.run)
    machine = life.up()
    converted.require_ephemeral(machine, "overlay")
    machine.run(FORGET)
    life.ask("ephemeroot next-boot keep")
    machine = life.up()
    assert machine.run("findmnt -no FSTYPE /").out.strip() == "ext4"
    assert machine.run(f"ls -d {' '.join(FORGOTTEN)}", check=False).out == ""
    converted.require_own(machine)
    life.off()
    with kind.installed(cache, life.disk, stock.system.release) as host:
        print(host.run("apt-get -q update && apt-get -q -y full-upgrade"))
    machine = life.up()
    require_upgraded(life, "overlay")
    assert "keeps no old roots" in machine.run("ephemeroot next-boot root x 2>&1", check=False).out
    life.ask("ephemeroot next-boot keep")
    life.off()
    with kind.installed(cache, life.disk, stock.upgrade.release) as host:
        print(host.run(LEAVE))
    require_persistent(life, "ext4")
