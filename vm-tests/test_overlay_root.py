"""A stock installation on ext4 that stays as it is below an overlay: boots of Debian, by both of
dracut's inits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vm.bench import Bench, Boot
from vm.cache import Cache
from vm.disk import Disk
from vm.ephemeral import make
from vm.inits import WITHOUT_SYSTEMD
from vm.machine import Machine
from vm.mounted_roots import OVERLAY, OVERLAY_ROOT, Ext4
from vm.system import System

DiskFactory = Callable[..., Disk]

LOST = ("/etc/lost", "/usr/lost", "/root/lost")
KEPT = ("/var/log/diary", "/home/talyz/diary")


def check_mounts(machine: Machine) -> None:
    assert machine.run("findmnt -no FSTYPE /").out.split() == ["overlay"]
    assert machine.run("findmnt -rno TARGET | grep -cx /").out.strip() == "1"
    options = machine.run("findmnt -no OPTIONS /").out
    assert "rw" in options.strip().split(",")
    assert machine.run("findmnt -no FSROOT /var/log").out.strip() == "/persistent/var/log"


def check_report(machine: Machine, retired: bool) -> None:
    said = json.loads(machine.read("/run/ephemeroot/boot.json"))
    assert said["wipe"]["problems"] == []
    assert said["persist"]["problems"] == []
    assert bool(said["wipe"]["wiped /"]["retired"]) == retired
    journal = machine.journal()
    assert journal.count("wipe: wiped") == 1, journal
    assert journal.index("wipe: wiped") < journal.index("persist: "), journal
    machine.run("systemctl is-active ephemeroot-lived.service")


@pytest.mark.parametrize(
    ("options", "boots"), [((), 3), (WITHOUT_SYSTEMD, 2)], ids=["systemd", "shell"]
)
def test_boot_after_boot(
    bench: Bench,
    cache: Cache,
    image: System,
    package: Path,
    disk: DiskFactory,
    name: str,
    options: tuple[str, ...],
    boots: int,
) -> None:
    ready = make(cache, image, package, OVERLAY)
    disks = (disk(Ext4(), ready.system), disk(ready.store_disk(), ready.system))
    boot = Boot(ready.system, ready.initrd(cache, options), disks, root=OVERLAY_ROOT)
    with disks[0].mounted("ext4", "ro") as top:
        before = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    for number in range(1, boots + 1):
        machine = bench.up(boot, name)
        assert machine.settle() == "running", machine.failed_units()
        check_report(machine, retired=number > 1)
        check_mounts(machine)
        assert machine.run(f"ls -d {' '.join(LOST)}", check=False).out == ""
        machine.run(f"for f in {' '.join(LOST)}; do echo day {number} > $f; done; rm /etc/hosts")
        machine.run(f"echo day {number} | tee -a {' '.join(KEPT)}")
        expected = "".join(f"day {day}\n" for day in range(1, number + 1)).encode()
        assert [machine.read(path) for path in KEPT] == [expected] * len(KEPT)
        print(f"\nboot {number}: login after {machine.boot_time:.1f} s")
        assert machine.poweroff().complaints == ()
    with disks[0].mounted("ext4", "ro") as top:
        after = sorted(str(p.relative_to(top)) for p in (top / "etc").rglob("*"))
    assert after == before, "the installed root was never written to"
    retired = [f"day {number}\n" for number in range(1, boots)]
    with disks[1].mounted() as top:
        old = top / "persistent/ephemeroot-overlay/old-uppers"
        assert sorted((p / "etc/lost").read_text() for p in old.iterdir()) == retired
        assert not [p.name for p in old.iterdir() if "unused" in p.name]
