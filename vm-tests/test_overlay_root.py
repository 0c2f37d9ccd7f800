"""A stock installation on ext4 that stays unchanged below an overlay: on LVM with systemd, and on
two plain disks without.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import proof
from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import make
from vm.image import VOLUMES, debian_system
from vm.inits import WITHOUT_SYSTEMD
from vm.lvm import START
from vm.machine import Machine
from vm.mounted_roots import (
    OVERLAY,
    OVERLAY_ROOT,
    STOCK,
    STOCK_ROOT,
    STOCK_WORDS,
    Ext4,
    stock_disk,
)
from vm.system import System

DiskFactory = Callable[..., Disk]

LOST = ("/etc/lost", "/usr/lost", "/root/lost")
KEPT = ("/var/log/diary", "/home/talyz/diary")


def check_mounts(machine: Machine, log: str) -> None:
    assert machine.run("findmnt -no FSTYPE /").out.split() == ["overlay"]
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"
    options = machine.run("findmnt -no OPTIONS /").out
    assert "rw" in options.strip().split(",")
    assert machine.run("findmnt -no FSROOT /var/log").out.strip() == log


def check_report(machine: Machine, retired: bool) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    assert bool(said["wipe"]["wiped /"]["retired"]) == retired
    journal = machine.journal()
    assert journal.count("wipe: wiped") == 1, journal
    assert journal.index("wipe: wiped") < journal.index("persist: "), journal
    machine.run("systemctl is-active ephemeroot-boot-complete.service")


@pytest.mark.proof
def test_boots_an_overlay_without_systemd(
    bench: Bench, cache: Cache, image: System, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows an overlay as the root under dracut's own init."""
    ready = make(cache, image, package, OVERLAY)
    disks = (disk(Ext4(), ready.system), disk(ready.store_disk(), ready.system))
    boot = Boot(ready.system, ready.initrd(cache, WITHOUT_SYSTEMD), disks, root=OVERLAY_ROOT)
    check_boots(bench, boot, name, 2)
    with disks[1].mounted() as top:
        old = top / "persistent/ephemeroot-overlay/old-uppers"
        assert [(p / "etc/lost").read_text() for p in old.iterdir()] == ["day 1\n"]
        assert not [p.name for p in old.iterdir() if "unused" in p.name]


def test_boots_an_overlay_on_lvm_with_systemd(
    bench: Bench, cache: Cache, package: Path, disk: DiskFactory, name: str
) -> None:
    """Only a boot shows an overlay as the root under systemd, on LVM."""
    ready = make(cache, debian_system(cache, VOLUMES), package, STOCK)
    stock = disk(stock_disk(ready), ready.system)
    initrd = ready.initrd(cache, ("--add", "lvm"))
    boot = Boot(ready.system, initrd, (stock,), root=STOCK_ROOT, arguments=STOCK_WORDS)
    boots = proof.rounds(2, 3)
    check_boots(bench, boot, name, boots, log="/var/log", start=START, look=check_old_uppers)


def check_boots(
    bench: Bench,
    boot: Boot,
    name: str,
    boots: int,
    *,
    log: str = "/persistent/var/log",
    start: int = 0,
    look: Callable[[Machine, int], None] = lambda machine, boots: None,
) -> None:
    """Boot the root on the first disk, which begins at the byte *start*, so many times. *log* is
    the path of /var/log on the store's filesystem; *look* inspects the last boot.
    """
    stock = boot.disks[0]
    with stock.mounted("ext4", "ro", start) as top:
        before = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    for number in range(1, boots + 1):
        machine = bench.up(boot, name)
        assert machine.settle() == "running", machine.failed_units()
        check_report(machine, retired=number > 1)
        check_mounts(machine, log)
        assert machine.run(f"ls -d {' '.join(LOST)}", check=False).out == ""
        if number == boots:
            look(machine, boots)
        machine.run(f"for f in {' '.join(LOST)}; do echo day {number} > $f; done; rm /etc/hosts")
        machine.run(f"echo day {number} | tee -a {' '.join(KEPT)}")
        expected = "".join(f"day {day}\n" for day in range(1, number + 1)).encode()
        assert [machine.read(path) for path in KEPT] == [expected] * len(KEPT)
        print(f"\nboot {number}: login after {machine.boot_time:.1f} s")
        # The device of the root itself cannot be detached from inside: that message is not about
        # us.
        complaints = machine.poweroff().complaints
        assert [line for line in complaints if " DM " not in line] == []
    with stock.mounted("ext4", "ro", start) as top:
        after = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    assert after == before, "the installed root was never written to"


def check_old_uppers(machine: Machine, boots: int) -> None:
    """On the store's own logical volume; a file lost with a layer is restored from it."""
    assert machine.run("findmnt -no SOURCE /persistent").out == "/dev/mapper/vg0-store\n"
    old = "/persistent/ephemeroot-overlay/old-uppers"
    names = sorted(machine.run(f"ls {old}").out.split())
    assert not [name for name in names if "unused" in name]
    lost = [machine.read(f"{old}/{name}/etc/lost").decode() for name in names]
    assert lost == [f"day {number}\n" for number in range(1, boots)]
    machine.run(f"ephemeroot roots restore {LOST[0]} --from {names[0]}")
    assert machine.read(LOST[0]) == b"day 1\n"
