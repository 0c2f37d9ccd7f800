"""Stock Debians on partitioned disks become ephemeral, through firmware and boot loader.

The commands are those that `ephemeroot init` prints, unchanged and in its order; each question is
answered with yes, and the editor changes nothing. `test_converted_lives.py` has the lives of such
machines.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vm import converted, installer
from vm.bench import Bench
from vm.cache import Cache
from vm.converted import FORGET, FORGOTTEN
from vm.firmware import FirmwareBoot
from vm.installer import GRUB_PC, Installation
from vm.machine import Machine
from vm.system import System


@pytest.fixture(scope="module")
def stock(cache: Cache, package: Path) -> System:
    """The system with the project, and with files of an administrator."""
    return converted.stock(cache, package)


def forgets(machine: Machine) -> None:
    """Write a file that the next boot forgets; `unsaved` reports it at login and at shutdown."""
    machine.run(FORGET)
    machine.run(
        "systemctl enable --now ephemeroot-unsaved.timer ephemeroot-unsaved-shutdown.service;"
        "systemctl start ephemeroot-unsaved.service",
        timeout=300,
    )
    told = machine.read("/run/motd.d/ephemeroot").decode()
    assert "the next boot forgets" in told
    assert any(path in told for path in FORGOTTEN)


def require_told_at_shutdown(machine: Machine) -> None:
    end = machine.poweroff(240)
    assert end.complaints == ()
    assert "ephemeroot: the next boot forgets" in end.console


def test_converts_a_machine_with_bios_and_grub(
    stock: System, bench: Bench, cache: Cache, scratch: Path, name: str
) -> None:
    """Only a boot shows that GRUB, from the boot record on, starts the files that `apply` has
    written below the moved /boot, and what a shutdown prints. The commands run on this host, which
    is ten times as fast.
    """
    kind = Installation(GRUB_PC)
    disk = installer.disk(bench, kind, stock).copy(scratch / "disk.raw")
    with kind.installed(cache, disk, stock.release) as host:
        assert not converted.follow(host.run)
        host.run(FORGET)
    boot = FirmwareBoot((disk,), None)
    machine = bench.up(boot, name)
    converted.require_ephemeral(machine, "btrfs")
    assert "BOOT_IMAGE=/@boot/vmlinuz" in machine.run("cat /proc/cmdline").out
    forgets(machine)
    require_told_at_shutdown(machine)
